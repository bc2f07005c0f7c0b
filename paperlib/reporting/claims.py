"""The paper's claims C1 to C7 against the records: verdict, numbers, how many records. No torch
here.

The rules are the same for every profile. They were written when the rankings on digits and CIFAR-10
were known, and before any other. What is "clear" was made stricter since: in C3 and C4 when the
tables of `quick` were known, in C1, C2 and C5 when the rankings with ResNet-8 were known (they had
been supported, supported and not tested). Set-ups are counted, never pooled, because points of
different set-ups do not lie on one line; in C3 and C4 the methods within each set-up are counted,
which share a teacher and a pick. A set-up counts in C3 and C4 when all its records are there,
elsewhere when every augmentation has students of as many seeds.

    supported      the effect has the claimed sign in every set-up, and is clear (see each claim) in
    more than half of them not supported  it has the other sign in at least half of them
    partly         anything between
    not tested     no set-up has the records for it
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..basics.statistics import t_critical
from ..study import plan, profiles
from ..study.plan import Gains, Way
from ..study.store import Store
from . import regimes, report
from .gains import gains_table, way

CLEAR_P = (
    0.05  # of an exact permutation test: an order that chance gives less often counts as clear
)
CLEAR_T = "clear: above 0 by a t test over the seeds (one-sided, p < 0.05)"
CHEAP = (
    1.0  # scoring all candidates counts as cheap if it takes less than training so many students
)
SCORE = report.RANKERS["score"][0]
ORDER_RULE = (
    "sign: Spearman below 0 over all 16; clear: exact p < 0.05, and still so if accuracies "
    "are exchanged only among those with CutMix "
    "and among those without"
)
GAIN_RULE = f"sign: the pick gains over the base augmentation; {CLEAR_T}"
QAT_SAYS = "with the pick, QAT methods (EWGS, LSQ, PACT, DoReFa with KD) improve"
KD_SAYS = "with the pick, KD methods improve"


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
        tried = {record["config"]["augmentation"] for record in students}
        if not score or len(tried) < len(profiles.CANDIDATES):
            continue
        # A score and its students may come from two machines: then nothing but seconds can be
        # compared.
        on_cpu = all(
            record["environment"].get("device_type", "cpu") == "cpu"
            for record in (score, *students)
        )
        field = "cpu_seconds" if on_cpu else "seconds"
        each, count = (
            sum(record[field] for record in students) / len(students),
            len(profiles.CANDIDATES),
        )
        rows.append(
            {
                "dataset": setup.data.name,
                "model": setup.model,
                "bits": setup.bits,
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


def cost_figure(costs: pd.DataFrame) -> Figure:
    """A `cost_table`, a group of bars a set-up: scoring, one student, a student for each
    candidate.
    """
    names = {
        "scoring": "scoring all candidates",
        "student": "one student",
        "sweep": "a student for each candidate",
    }
    with plt.rc_context(report.STYLE):
        figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.9 * len(costs)), layout="constrained")
        for k, (column, label) in enumerate(names.items()):
            bars = axis.barh(
                [i + 0.27 * (k - 1) for i in range(len(costs))], costs[column], 0.25, label=label
            )
            axis.bar_label(
                bars, [f"{value:,.0f} s" for value in costs[column]], padding=3, fontsize=8
            )
        axis.set_yticks(range(len(costs)), costs["setup"])
        axis.set_xlabel(" or ".join(costs["clock"].unique()))
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    plt.close(figure)
    return figure


Judged = tuple[
    Store, plan.Setup, pd.DataFrame
]  # a set-up, where its records are, its rows of the ranking table


def claims(stores: Sequence[Store]) -> list[Claim]:
    """C1 to C7 from the records of some profiles."""
    ranking = pd.concat([report.ranking_table(store) for store in stores], ignore_index=True)
    agreement = report.agreement_table(ranking)
    costs = pd.concat([cost_table(store) for store in stores], ignore_index=True)
    # A teacher and a score beside the students of every complete set-up.
    behind = {name: int(rows["n"].sum()) + 2 for name, rows in report.groups(ranking)}
    places = {
        (store.profile, s.data.name, s.model, s.bits): (store, s)
        for store in stores
        for s in profiles.setups(store.profile)
    }
    judged = {
        name: (*places[tuple(rows[["profile", "dataset", "model", "bits"]].iloc[0])], rows)
        for name, rows in report.groups(ranking)
    }
    by_pool = {pool: _by_ranker(agreement, pool) for pool in (profiles.ALL_16, profiles.SEVEN)}
    by_ranker = by_pool[profiles.ALL_16]
    when = regimes.by_claim(stores)
    found = [
        _c1(by_pool, behind),
        _c2(judged, behind),
        _improvement("C3", QAT_SAYS, stores, plan.qat_gains),
        _improvement("C4", KD_SAYS, stores, plan.kd_gains),
        _c5(by_ranker, behind),
        _c6(costs, behind),
        _c7(stores),
    ]
    return [replace(claim, when=when.get(claim.name, "")) for claim in found]


def _by_ranker(agreement: pd.DataFrame, pool: str) -> dict[str, pd.DataFrame]:
    """Ranker -> its rows of an agreement table within a pool, by set-up."""
    if agreement.empty:
        return {}
    return {
        name: rows.set_index("setup")
        for name, rows in agreement[agreement["pool"] == pool].groupby("ranker")
    }


def _ordered(rows: pd.DataFrame) -> tuple[list[bool], list[bool]]:
    """The signs of Spearman's correlation in rows of an agreement table, and whether they are
    clear; see ORDER_RULE.
    """
    if rows.empty:
        return [], []
    signs = rows["spearman"] < 0
    clear = (
        signs & (rows["spearman_p"] < CLEAR_P) & (rows["within"] < 0) & (rows["within_p"] < CLEAR_P)
    )
    return list(signs), list(clear)


def _c1(by_pool: dict[str, dict[str, pd.DataFrame]], behind: dict[str, int]) -> Claim:
    rows = by_pool[profiles.ALL_16].get(SCORE, pd.DataFrame())
    lines = []
    for setup in rows.index:
        for pool, by_ranker in by_pool.items():
            row = by_ranker[SCORE].loc[setup]
            rivals = ", ".join(
                f"{name} {of.loc[setup, 'spearman']:+.2f}"
                for name, of in by_ranker.items()
                if name != SCORE and setup in of.index
            )
            within = (
                f"within CutMix and without {row['within']:+.2f} (p = {row['within_p']:.2g}), "
                if pool == profiles.ALL_16
                else ""
            )
            lines.append(
                f"{setup}, {pool}: Spearman {row['spearman']:+.2f} (exact p = "
                f"{row['spearman_p']:.2g}), {within}Kendall "
                f"{row['kendall']:+.2f}, {row['seeds']} seed(s); rivals: {rivals}"
            )
    says = "a lower score goes with a higher accuracy of the quantized student"
    result = verdict(*_ordered(rows))
    return Claim(
        "C1",
        says,
        ORDER_RULE,
        result,
        tuple(lines),
        len(rows),
        sum(behind[name] for name in rows.index),
    )


def _c2(judged: dict[str, Judged], behind: dict[str, int]) -> Claim:
    lines, found = [], []
    for name, (store, setup, rows) in judged.items():
        if rows["teacher_stddev"].isna().any():
            continue
        ours, theirs = (rows.loc[rows[column].idxmin()] for column in ("score", "teacher_stddev"))
        students = (
            [setup.student(pick["augmentation"], seed) for seed in setup.seeds]
            for pick in (ours, theirs)
        )
        numbers = report.compared(*students, store)
        error = (
            ""
            if numbers["n"] < 2
            else f" (standard error {numbers['difference_se']:.2f}, {numbers['n']} seeds)"
        )
        best = rows["accuracy_mean"].max()
        lines.append(
            f"{name}: {ours['augmentation']} {ours['accuracy_mean']:.2f} % against "
            f"{theirs['augmentation']} "
            f"{theirs['accuracy_mean']:.2f} %, {numbers['difference']:+.2f} points{error}; "
            "lost to the best: "
            f"{best - ours['accuracy_mean']:.2f} and {best - theirs['accuracy_mean']:.2f}"
        )
        found.append(numbers | {"setup": name})
    table = pd.DataFrame(found, columns=["setup", "difference", "difference_se", "n"])
    says, rule = (
        "the score's pick beats the minimal-variance pick",
        f"sign: it is more accurate, over all 16; {CLEAR_T}",
    )
    result = verdict(list(table["difference"] > 0), list(_clear(table)))
    return Claim(
        "C2",
        says,
        rule,
        result,
        tuple(lines),
        len(table),
        sum(behind[name] for name in table["setup"]),
    )


def _improvement(
    name: str, says: str, stores: Sequence[Store], tables: Callable[[str], list[Gains]]
) -> Claim:
    """C3 or C4: does our pick gain over the base augmentation, method by method?"""
    lines, signs, clear, setups, keys = [], [], [], 0, set()
    for store in stores:
        for gains in tables(store.profile):
            runs = [
                run
                for arms in gains.students(store).values()
                for students in arms.values()
                for run in students
            ]
            runs += [gains.setup.teacher, gains.scored.score]
            if not all(map(store.done, runs)):
                continue
            setups += 1
            keys |= {run.key for run in runs}
            table = gains_table([gains], store)
            ours = table[table["arm"].map(way) == Way.OURS]
            if (
                ours["augmentation"] == "none"
            ).all():  # the base augmentation itself: no method can gain, which counts once
                ours = ours.iloc[:1]
            signs += list(ours["difference"] > 0)
            clear += list(_clear(ours))
            for how in (Way.OURS, Way.OURS_OF_SEVEN, Way.MINIMAL, Way.RELEASED):
                rows = table[table["arm"].map(way) == how]
                if len(rows):
                    lines.append(
                        _gain_line(
                            f"{store.profile}, {gains.setup.data.name} {gains.setup.model}, {how}",
                            rows,
                        )
                    )
    return Claim(name, says, GAIN_RULE, verdict(signs, clear), tuple(lines), setups, len(keys))


def _clear(rows: pd.DataFrame) -> pd.Series:
    """Whether each row's difference is above 0 by more than chance gives in one of twenty cases;
    one seed is never clear.
    """
    return rows["difference"] > rows["n"].map(lambda n: t_critical(n - 1)) * rows["difference_se"]


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
        f"{title}: {augmentation}: {int((change > 0).sum())} of {len(rows)} methods gain "
        f"over the base augmentation ({int(_clear(rows).sum())} "
        f"clearly), {change.mean():+.2f} points on average, {change.min():+.2f} to "
        f"{change.max():+.2f}, {int(rows['n'].min())} seed(s)"
    )


def _c5(by_ranker: dict[str, pd.DataFrame], behind: dict[str, int]) -> Claim:
    rows = by_ranker.get(SCORE, pd.DataFrame())
    says = "it holds across architectures and data sets, low precisions above all"
    rule = (
        "as C1; tested if a network was tried on two data sets, and a data set with two "
        "networks; one precision alone: partly at most"
    )
    kinds = {tuple(setup.split(", ")[:3]) for setup in rows.index}
    datasets, models, precisions = (sorted({kind[k] for kind in kinds}) for k in range(3))
    lines = (
        f"data sets: {', '.join(datasets) or 'none'}; networks: "
        f"{', '.join(models) or 'none'}; precisions: {', '.join(precisions) or 'none'}",
        *(
            f"{setup}: Spearman {row['spearman']:+.2f}, {row['seeds']} seed(s)"
            for setup, row in rows.iterrows()
        ),
    )
    across = {(dataset, model) for dataset, model, _ in kinds}
    crossed = all(max(Counter(kind[k] for kind in across).values(), default=0) > 1 for k in (0, 1))
    result = verdict(*_ordered(rows)) if crossed else "not tested"
    if result == "supported" and len(precisions) < 2:
        result = "partly"
    return Claim(
        "C5", says, rule, result, lines, len(rows), sum(behind[name] for name in rows.index)
    )


def _c6(costs: pd.DataFrame, behind: dict[str, int]) -> Claim:
    lines = tuple(
        f"{row.setup}: scoring {row.candidates} candidates {row.scoring:.0f} {row.clock}, "
        f"one student of {row.epochs} epochs "
        f"{row.student:.0f}, a student for each candidate {row.sweep:.0f} ({row.device})"
        for row in costs.itertuples()
    )
    says, rule = (
        "selection costs little beside training",
        "sign: less than the sweep it replaces; clear: less than one student",
    )
    result = verdict(
        [row.scoring < row.sweep for row in costs.itertuples()],
        [s < CHEAP for s in costs.get("share_of_student", [])],
    )
    return Claim(
        "C6", says, rule, result, lines, len(costs), sum(behind.values()) if len(costs) else 0
    )


def _c7(stores: Sequence[Store]) -> Claim:
    lines, setups, records = [], set(), 0
    for store in stores:
        table, comparison = report.methods_table(store), plan.methods(store.profile)
        runs = {
            run.key: run
            for runs in (comparison.quantizers | comparison.losses).values()
            for run in runs
        }
        done = sum(
            store.done(run) for run in runs.values()
        )  # EWGS + KD stands in both lists, and counts once
        records += done
        setups |= {comparison.setup.name} if done else set()
        for kind, rows in table.groupby("kind") if len(table) else ():
            least = rows.loc[rows["accuracy_mean"].idxmin()]
            lines.append(
                f"{store.profile}: {len(rows)} "
                f"{'losses' if kind == 'loss' else 'quantizers'} train; the least accurate, "
                f"{least['method']}, reaches {least['accuracy_mean']:.1f} %"
            )
    says = "it is compatible with any KD or QAT algorithm"
    rule = (
        "partly if all train: the score does not look at the student; whether each "
        "gains is C3 and C4"
    )
    return Claim(
        "C7", says, rule, "partly" if lines else "not tested", tuple(lines), len(setups), records
    )


def markdown(found: Sequence[Claim], stores: Sequence[Store]) -> str:
    """The page results/CLAIMS.md, of claims and of the stores that they were judged by."""
    parts = [
        "# The paper's claims\n\nWritten by `make figures` from the committed records; the "
        "rules are in `paperlib/reporting/claims.py`. The paper's own "
        "tables are not at hand; what is known of them second-hand is at the end.\n\n| "
        "claim | what the paper says | our rule | verdict | set-ups | records | by regime "
        "|\n"
        "|---|---|---|---|---|---|---|\n"
        + "".join(
            f"| {c.name} | {c.says} | {c.rule} | **{c.verdict}** | {c.setups} | {c.records} "
            f"| {c.when} |\n"
            for c in found
        )
        + "\nThe verdicts are those of soft teachers and short schedules, the first "
        "set-ups. The last column is the verdict in each regime "
        "of [docs/experiments.md](../docs/experiments.md), by the rules there; open: its "
        "runs are not done.\n"
    ]
    for claim in found:
        parts.append(
            f"## {claim.name}: {claim.verdict}\n\n"
            + "".join(f"- {line}\n" for line in claim.evidence)
        )
    for store in stores:
        for title, table in (
            ("regimes", regimes.verdicts_table(store)),
            ("predictions", regimes.predictions_table(store)),
        ):
            if len(table):
                parts.append(
                    f"## {title[0].upper()}{title[1:]} of {store.profile}\n\n"
                    f"{report.markdown(table, 2)}"
                )
    paper = report.paper_table(stores[0].root)
    if len(paper):
        sources = "".join(f"- {source}\n" for source in paper["source"].unique())
        shown = paper.assign(
            source=paper["source"].map(
                {s: k for k, s in enumerate(paper["source"].unique(), start=1)}
            )
        )
        parts.append(
            f"## The paper's numbers, second-hand\n\nSources, in order:\n\n{sources}\n"
            + report.markdown(shown.drop(columns="page"), 2)
        )
    return "\n".join(parts)
