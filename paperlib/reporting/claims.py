"""The paper's claims C1 to C7 against the records: verdict, numbers, how many records. No torch
here.

The rules are the same for every profile. They were written when the rankings on digits and CIFAR-10
were known, and before any other. What is "clear" was made stricter since: in C3 and C4 when the
tables of `quick` were known, in C1, C2 and C5 when the rankings with ResNet-8 were known (they had
been supported, supported and not tested). Set-ups are counted, never pooled, because points of
different set-ups do not lie on one line. In C3 and C4 the methods within each set-up are counted,
which share a teacher and a pick. A set-up counts in C3 and C4 when all its records are there,
elsewhere when every augmentation has students of as many seeds.

    supported      the effect has the claimed sign in every set-up, and is clear (see each claim) in
                   more than half of them
    not supported  it has the other sign in at least half of them
    partly         anything between
    not tested     no set-up has the records for it
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..basics.statistics import direction
from ..study import plan, profiles
from ..study.config import Run
from ..study.gains import Gains, Way
from ..study.profiles import ALL_16, SEVEN
from ..study.store import Store
from . import regimes, report
from .gains import gains_table, way
from .methods import methods_table
from .paper import paper_table
from .report import SETUP, of_ranker, setup_facts
from .style import markdown as in_markdown
from .style import styled

CLEAR_P = 0.05  # of an exact permutation test: an order that chance gives less often is clear
CLEAR_T = "clear: above 0 by a t test over the seeds (one-sided, p < 0.05)"
CHEAP = 1.0  # scoring all candidates is cheap if it takes less than training so many students
ORDER_RULE = (
    "sign: Spearman below 0 over all 16; clear: exact p < 0.05, and still so if accuracies are "
    "exchanged only among those with CutMix and among those without"
)
PICK_RULE = f"sign: it is more accurate, over all 16; {CLEAR_T}"
GAIN_RULE = f"sign: the pick gains over the base augmentation; {CLEAR_T}"
ACROSS_RULE = (
    "as C1; tested if a network was tried on two data sets, and a data set with two networks; one "
    "precision alone: partly at most"
)
COST_RULE = "sign: less than the sweep it replaces; clear: less than one student"
TRAIN_RULE = (
    "partly if all train: the score does not look at the student; whether each gains is C3 and C4"
)
QAT_SAYS = "with the pick, QAT methods (EWGS, LSQ, PACT, DoReFa with KD) improve"
KD_SAYS = "with the pick, KD methods improve"
Whole = dict[str, pd.DataFrame]  # name of a complete set-up -> its rows of the ranking table


@dataclass(frozen=True)
class Claim:
    """One claim: its name, what the paper says, our rule, the verdict, the numbers as lines, and
    the records and set-ups behind them.

    when  the verdict in each regime of docs/experiments.md, by the rules there; "" for claims that
    are not asked there.
    """

    name: str
    says: str
    rule: str
    verdict: str
    evidence: tuple[str, ...]
    setups: int
    records: int
    when: str = ""


def verdict(signs: Sequence[bool], clear: Sequence[bool]) -> str:
    """From whether each set-up has the claimed sign, and whether it is clear there.

    >>> verdict([], []), verdict([True, True], [True, True]), verdict([True, True],
    ...     [True, False]), verdict([False, True], [False, True])
    ('not tested', 'supported', 'partly', 'not supported')
    """
    if not signs:
        return "not tested"
    if all(signs) and 2 * sum(clear) > len(clear):
        return "supported"
    return "not supported" if 2 * sum(signs) <= len(signs) else "partly"


def cost_table(store: Store) -> pd.DataFrame:
    """What selection costs beside what it replaces: one row per set-up whose score and students are
    there.

    scoring, student, sweep  what scoring all candidates takes, one student (mean), one student for
    every candidate, by the clock: "processor seconds" of a CPU, which do not depend on how many
    processes shared it, else "seconds". share_of_student  scoring over student: scoring costs as
    much as so many students. device  where those ran.
    """
    rows = []
    for setup in plan.setups(store.profile):
        score = store.finished(setup.score)
        students = [record for record in map(store.finished, setup.students) if record]
        tried, count = {r["config"]["augmentation"] for r in students}, len(profiles.CANDIDATES)
        if not score or len(tried) < count:
            continue
        # A score and its students may come from two machines: then only seconds can be compared.
        devices = {r["environment"].get("device_type", "cpu") for r in (score, *students)}
        on_cpu = devices == {"cpu"}
        field = "cpu_seconds" if on_cpu else "seconds"
        each = sum(record[field] for record in students) / len(students)
        rows.append(
            setup_facts(setup)
            | {
                "setup": setup.name,
                "candidates": count,
                "scoring": score[field],
                "student": each,
                "sweep": each * count,
                "clock": "processor seconds" if on_cpu else "seconds",
                "share_of_student": score[field] / each,
                "epochs": setup.student_recipe.epochs,
                "device": students[0]["environment"]["device"],
            }
        )
    return pd.DataFrame(rows)


@styled
def cost_figure(costs: pd.DataFrame) -> Figure:
    """A `cost_table`, a group of bars a set-up: scoring, one student, a student for each
    candidate.
    """
    names = {
        "scoring": "scoring all candidates",
        "student": "one student",
        "sweep": "a student for each candidate",
    }
    figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.9 * len(costs)), layout="constrained")
    for k, (column, label) in enumerate(names.items()):
        places = [i + 0.27 * (k - 1) for i in range(len(costs))]
        bars = axis.barh(places, costs[column], 0.25, label=label)
        axis.bar_label(bars, [f"{value:,.0f} s" for value in costs[column]], padding=3, fontsize=8)
    axis.set_yticks(range(len(costs)), costs["setup"])
    axis.set_xlabel(" or ".join(costs["clock"].unique()))
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def claims(stores: Sequence[Store]) -> list[Claim]:
    """C1 to C7 from the records of some profiles."""
    ranking = pd.concat([report.ranking_table(store) for store in stores], ignore_index=True)
    agreement, whole = report.agreement_table(ranking), dict(report.groups(ranking))
    when = regimes.by_claim(stores)
    found = [
        _c1(agreement, whole),
        _c2(stores, whole),
        _improvement("C3", QAT_SAYS, stores, plan.qat_gains),
        _improvement("C4", KD_SAYS, stores, plan.kd_gains),
        _c5(agreement, whole),
        _c6(stores, whole),
        _c7(stores),
    ]
    return [replace(claim, when=when.get(claim.name, "")) for claim in found]


def _behind(whole: Whole, names: Sequence[str]) -> tuple[int, int]:
    """How many set-ups, and how many records: a teacher and a score beside the students of each."""
    return len(names), sum(int(whole[name]["n"].sum()) + 2 for name in names)


def _ordered(rows: pd.DataFrame) -> str:
    """The verdict on rows of an agreement table, see ORDER_RULE."""
    if rows.empty:
        return verdict([], [])
    signs, within = rows["spearman"] < 0, rows["within"] < 0
    clear = within & (rows["spearman_p"] < CLEAR_P) & (rows["within_p"] < CLEAR_P)
    return verdict(list(signs), list(signs & clear))


def _c1(agreement: pd.DataFrame, whole: Whole) -> Claim:
    scores = {pool: of_ranker(agreement, "score", pool) for pool in (ALL_16, SEVEN)}
    lines = []
    for setup in scores[ALL_16].index:
        for pool, rows in scores.items():
            row = rows.loc[setup]
            here = agreement[(agreement["setup"] == setup) & (agreement["pool"] == pool)]
            rivals = here[here["ranker"] != row["ranker"]].sort_values("ranker")
            named = [f"{rival.ranker} {rival.spearman:+.2f}" for rival in rivals.itertuples()]
            within = f"within CutMix and without {row['within']:+.2f} (p = {row['within_p']:.2g}), "
            lines.append(
                f"{setup}, {pool}: Spearman {row['spearman']:+.2f} (exact p = "
                f"{row['spearman_p']:.2g}), {within if pool == ALL_16 else ''}Kendall "
                f"{row['kendall']:+.2f}, {row['seeds']} seed(s); rivals: {', '.join(named)}"
            )
    says, rows = (
        "a lower score goes with a higher accuracy of the quantized student",
        scores[ALL_16],
    )
    behind = _behind(whole, rows.index)
    return Claim("C1", says, ORDER_RULE, _ordered(rows), tuple(lines), *behind)


def _c2(stores: Sequence[Store], whole: Whole) -> Claim:
    places = {
        (store.profile, *setup_facts(setup).values()): (store, setup)
        for store in stores
        for setup in profiles.setups(store.profile)
    }
    lines, found = [], {}
    for name, rows in whole.items():
        if rows["teacher_stddev"].isna().any():
            continue
        store, setup = places[tuple(rows.iloc[0][["profile", *SETUP]])]
        ours, theirs = (rows.loc[rows[column].idxmin()] for column in ("score", "teacher_stddev"))
        students = (
            [setup.student(pick["augmentation"], seed) for seed in setup.seeds]
            for pick in (ours, theirs)
        )
        found[name] = numbers = report.compared(*students, store)
        error = f" (standard error {numbers['difference_se']:.2f}, {numbers['n']} seeds)"
        best = rows["accuracy_mean"].max()
        lines.append(
            f"{name}: {ours['augmentation']} {ours['accuracy_mean']:.2f} % against "
            f"{theirs['augmentation']} {theirs['accuracy_mean']:.2f} %, "
            f"{numbers['difference']:+.2f} points{error if numbers['n'] > 1 else ''}; lost to the "
            f"best: {best - ours['accuracy_mean']:.2f} and {best - theirs['accuracy_mean']:.2f}"
        )
    table = pd.DataFrame(found.values(), columns=["difference", "difference_se", "n"])
    result = verdict(list(table["difference"] > 0), list(_clear(table)))
    says = "the score's pick beats the minimal-variance pick"
    return Claim("C2", says, PICK_RULE, result, tuple(lines), *_behind(whole, list(found)))


def _improvement(
    name: str, says: str, stores: Sequence[Store], tables: Callable[[str], list[Gains]]
) -> Claim:
    """C3 or C4: does our pick gain over the base augmentation, method by method?"""
    lines, signs, clear, setups, keys = [], [], [], 0, set()
    for store, gains, runs in _complete(stores, tables):
        setups += 1
        keys |= {run.key for run in runs}
        table = gains_table([gains], store)
        ways = table["arm"].map(way)
        ours = table[ways == Way.OURS]
        if (ours["augmentation"] == "none").all():
            ours = ours.iloc[:1]  # the base augmentation itself: no method gains, which counts once
        signs += list(ours["difference"] > 0)
        clear += list(_clear(ours))
        for how in (Way.OURS, Way.OURS_OF_SEVEN, Way.MINIMAL, Way.RELEASED):
            if (ways == how).any():
                title = f"{store.profile}, {gains.setup.data.name} {gains.setup.model}, {how}"
                lines.append(_gain_line(title, table[ways == how]))
    return Claim(name, says, GAIN_RULE, verdict(signs, clear), tuple(lines), setups, len(keys))


def _complete(
    stores: Sequence[Store], tables: Callable[[str], list[Gains]]
) -> Iterator[tuple[Store, Gains, list[Run]]]:
    """The gains whose runs are all done, with those runs."""
    for store in stores:
        for gains in tables(store.profile):
            runs = list(gains.runs(store))
            if all(map(store.done, runs)):
                yield store, gains, runs


def _clear(rows: pd.DataFrame) -> pd.Series:
    """Whether each row's difference is above 0 by more than chance gives in one of twenty cases. A
    single seed is never clear.
    """
    numbers = rows[["difference", "difference_se", "n"]]
    return numbers.apply(lambda row: direction(*row) > 0, axis=1).astype(bool)


def _gain_line(title: str, rows: pd.DataFrame) -> str:
    """One way to choose in one set-up: its augmentation, how many methods gain, the mean and the
    extremes.
    """
    augmentation, change = rows["augmentation"].iloc[0], rows["difference"]
    if augmentation == "none":
        return (
            f"{title}: none, the base augmentation itself: nothing changes for any of "
            f"{len(rows)} methods"
        )
    return (
        f"{title}: {augmentation}: {(change > 0).sum()} of {len(rows)} methods gain over the base "
        f"augmentation ({_clear(rows).sum()} clearly), {change.mean():+.2f} points on average, "
        f"{change.min():+.2f} to {change.max():+.2f}, {rows['n'].min()} seed(s)"
    )


def _c5(agreement: pd.DataFrame, whole: Whole) -> Claim:
    rows = of_ranker(agreement, "score")
    kinds = {tuple(whole[name].iloc[0][SETUP]) for name in rows.index}
    datasets, models, bits = (sorted({kind[k] for kind in kinds}) for k in range(3))
    precisions = [f"W{b}A{b}" for b in bits]
    lines = [
        f"data sets: {', '.join(datasets) or 'none'}; networks: {', '.join(models) or 'none'}; "
        f"precisions: {', '.join(precisions) or 'none'}"
    ]
    for setup, row in rows.iterrows():
        lines.append(f"{setup}: Spearman {row['spearman']:+.2f}, {row['seeds']} seed(s)")
    across = {(dataset, model) for dataset, model, _ in kinds}
    crossed = all(max(Counter(kind[k] for kind in across).values(), default=0) > 1 for k in (0, 1))
    result = _ordered(rows) if crossed else "not tested"
    if result == "supported" and len(precisions) < 2:
        result = "partly"
    says = "it holds across architectures and data sets, low precisions above all"
    return Claim("C5", says, ACROSS_RULE, result, tuple(lines), *_behind(whole, rows.index))


def _c6(stores: Sequence[Store], whole: Whole) -> Claim:
    costs = [row for store in stores for row in cost_table(store).itertuples()]
    lines = tuple(
        f"{row.setup}: scoring {row.candidates} candidates {row.scoring:.0f} {row.clock}, one "
        f"student of {row.epochs} epochs {row.student:.0f}, a student for each candidate "
        f"{row.sweep:.0f} ({row.device})"
        for row in costs
    )
    signs = [row.scoring < row.sweep for row in costs]
    result = verdict(signs, [row.share_of_student < CHEAP for row in costs])
    records = _behind(whole, list(whole))[1] if costs else 0
    says = "selection costs little beside training"
    return Claim("C6", says, COST_RULE, result, lines, len(costs), records)


def _c7(stores: Sequence[Store]) -> Claim:
    lines, setups, records = [], set(), 0
    for store in stores:
        table, comparison = methods_table(store), plan.methods(store.profile)
        # EWGS + KD stands in both lists, and counts once.
        lists = (*comparison.quantizers.values(), *comparison.losses.values())
        done = {run.key for runs in lists for run in runs if store.done(run)}
        records += len(done)
        setups |= {comparison.setup.name} if done else set()
        for kind, rows in table.groupby("kind") if len(table) else ():
            least = rows.loc[rows["accuracy_mean"].idxmin()]
            several = "losses" if kind == "loss" else "quantizers"
            lines.append(
                f"{store.profile}: {len(rows)} {several} train; the least accurate, "
                f"{least['method']}, reaches {least['accuracy_mean']:.1f} %"
            )
    says, result = (
        "it is compatible with any KD or QAT algorithm",
        "partly" if lines else "not tested",
    )
    return Claim("C7", says, TRAIN_RULE, result, tuple(lines), len(setups), records)


def markdown(found: Sequence[Claim], stores: Sequence[Store]) -> str:
    """The page results/CLAIMS.md, of claims and of the stores that they were judged by."""
    rows = "".join(
        f"| {c.name} | {c.says} | {c.rule} | **{c.verdict}** | {c.setups} | {c.records} | {c.when} "
        "|\n"
        for c in found
    )
    parts = [
        "# The paper's claims\n\nWritten by `make figures` from the committed records; the rules "
        "are in `paperlib/reporting/claims.py`. The paper's own tables are not at hand; what is "
        "known of them second-hand is at the end.\n\n"
        "| claim | what the paper says | our rule | verdict | set-ups | records | by regime |\n"
        f"|---|---|---|---|---|---|---|\n{rows}\n"
        "The verdicts are those of soft teachers and short schedules, the first set-ups. The last "
        "column is the verdict in each regime of [docs/experiments.md](../docs/experiments.md), by "
        "the rules there; open: its runs are not done.\n"
    ]
    for claim in found:
        lines = "".join(f"- {line}\n" for line in claim.evidence)
        parts.append(f"## {claim.name}: {claim.verdict}\n\n{lines}")
    for store in stores:
        for title, table in (
            ("Regimes", regimes.verdicts_table(store)),
            ("Predictions", regimes.predictions_table(store)),
        ):
            if len(table):
                parts.append(f"## {title} of {store.profile}\n\n{in_markdown(table, 2)}")
    paper = paper_table(stores[0].root)
    if len(paper):
        numbers, sources = pd.factorize(paper["source"])
        listed = "".join(f"- {source}\n" for source in sources)
        shown = in_markdown(paper.assign(source=numbers + 1).drop(columns="page"), 2)
        parts.append(
            f"## The paper's numbers, second-hand\n\nSources, in order:\n\n{listed}\n{shown}"
        )
    return "\n".join(parts)
