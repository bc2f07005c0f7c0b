"""The paper's claims C1 to C7 against the records: verdict, numbers, how many records. No torch here.

The rules are the same for every profile. They were written when the rankings on digits and CIFAR-10 were known, and before any
other; when a gain of C3 and C4 is clear was made stricter when the tables of `quick` were known. Set-ups are counted, never pooled, because points of different set-ups do not lie on one line; in C3 and C4 the methods within
each set-up are counted, which share a teacher and a pick. A set-up counts when all its records are there.

    supported      the effect has the claimed sign in every set-up, and is clear (see each claim) in more than half of them
    not supported  it has the other sign in at least half of them
    partly         anything between
    not tested     no set-up has the records for it
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from . import experiments, profiles, report
from .experiments import MINIMAL, OURS, OURS_OF_SEVEN, RELEASED, Gains
from .gains import gains_table, way
from .runs import Store
from .statistics import t_critical

CLEAR_P = 0.05  # of an exact permutation test: an order that chance gives less often counts as clear
CHEAP = 1.0  # scoring all candidates counts as cheap if it takes less than training so many students
SCORE, STDDEV = "score D - CMI (ours)", "T. stddev (minimal variance)"
_GAIN = "sign: a gain over the base augmentation, clear: above 0 by a t test over the seeds (one-sided, p < 0.05)"
QAT_SAYS = f"with the pick, QAT methods (EWGS, LSQ, PACT, DoReFa with KD) improve; {_GAIN}"
KD_SAYS = f"with the pick, KD methods improve; {_GAIN}"


@dataclass(frozen=True)
class Claim:
    """One claim: its name, what the paper says, the verdict, the numbers as lines, and the records and set-ups behind them."""

    name: str
    says: str
    verdict: str
    evidence: tuple[str, ...]
    setups: int
    records: int


def verdict(signs: Sequence[bool], clear: Sequence[bool]) -> str:
    """From whether each set-up has the claimed sign, and whether it is clear there.

    >>> verdict([], []), verdict([True, True], [True, True]), verdict([True, True], [True, False]), verdict([False, True], [False, True])
    ('not tested', 'supported', 'partly', 'not supported')
    """
    if not signs:
        return "not tested"
    if all(signs) and 2 * sum(clear) > len(clear):
        return "supported"
    return "not supported" if 2 * sum(signs) <= len(signs) else "partly"


def cost_table(store: Store) -> pd.DataFrame:
    """What selection costs beside what it replaces: one row per set-up whose score and students are there.

    scoring, student, sweep  seconds of scoring all candidates, of one student (mean), of one student for every candidate;
    scoring_cpu and so on  the same in processor seconds, which do not depend on how many processes shared the machine;
    share_of_student  scoring_cpu over student_cpu: scoring costs as much as so many students. device  where those ran.
    """
    rows = []
    for setup in experiments.setups(store.profile):
        score = store.finished(setup.score)
        students = [record for record in map(store.finished, setup.students) if record]
        tried = {record["config"]["augmentation"] for record in students}
        if not score or len(tried) < len(profiles.CANDIDATES):
            continue
        facts = {"dataset": setup.data.name, "model": setup.model, "bits": setup.bits}
        row = facts | {"setup": setup.name, "candidates": len(profiles.CANDIDATES)}
        for suffix, field in (("", "seconds"), ("_cpu", "cpu_seconds")):
            each = sum(record[field] for record in students) / len(students)
            row |= {f"scoring{suffix}": score[field], f"student{suffix}": each, f"sweep{suffix}": each * row["candidates"]}
        row["share_of_student"] = row["scoring_cpu"] / row["student_cpu"]
        rows.append(row | {"epochs": setup.student_recipe.epochs, "device": students[0]["environment"]["device"]})
    return pd.DataFrame(rows)


def cost_figure(costs: pd.DataFrame) -> Figure:
    """Processor seconds of a `cost_table`, a group of bars a set-up: scoring, one student, a student for each candidate."""
    names = {"scoring_cpu": "scoring all candidates", "student_cpu": "one student", "sweep_cpu": "a student for each candidate"}
    with plt.rc_context(report.STYLE):
        figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.9 * len(costs)), layout="constrained")
        for k, (column, label) in enumerate(names.items()):
            bars = axis.barh([i + 0.27 * (k - 1) for i in range(len(costs))], costs[column], 0.25, label=label)
            axis.bar_label(bars, [f"{value:,.0f} s" for value in costs[column]], padding=3, fontsize=8)
        axis.set_yticks(range(len(costs)), costs["setup"])
        axis.set_xlabel("processor seconds")
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    plt.close(figure)
    return figure


def claims(stores: Sequence[Store]) -> list[Claim]:
    """C1 to C7 from the records of some profiles."""
    ranking = pd.concat([report.ranking_table(store) for store in stores], ignore_index=True)
    agreement = report.agreement_table(ranking)
    costs = pd.concat([cost_table(store) for store in stores], ignore_index=True)
    # A teacher and a score beside the students of every complete set-up.
    behind = {name: int(rows["n"].sum()) + 2 for name, rows in report.groups(ranking)}
    by_pool = {pool: _by_ranker(agreement, pool) for pool in (profiles.ALL_16, profiles.SEVEN)}
    by_ranker = by_pool[profiles.ALL_16]
    return [
        _c1(by_pool, behind), _c2(by_ranker, behind),
        _improvement("C3", QAT_SAYS, stores, experiments.qat_gains), _improvement("C4", KD_SAYS, stores, experiments.kd_gains),
        _c5(by_ranker, behind), _c6(costs, behind),
        _c7(stores),
    ]  # fmt: skip


def _by_ranker(agreement: pd.DataFrame, pool: str) -> dict[str, pd.DataFrame]:
    """Ranker -> its rows of an agreement table within a pool, by set-up."""
    if agreement.empty:
        return {}
    return {name: rows.set_index("setup") for name, rows in agreement[agreement["pool"] == pool].groupby("ranker")}


def _c1(by_pool: dict[str, dict[str, pd.DataFrame]], behind: dict[str, int]) -> Claim:
    rows = by_pool[profiles.ALL_16].get(SCORE, pd.DataFrame())
    lines = []
    for setup in rows.index:
        for pool, by_ranker in by_pool.items():
            row = by_ranker[SCORE].loc[setup]
            rivals = ", ".join(f"{name} {by_ranker[name].loc[setup, 'spearman']:+.2f}" for name in by_ranker if name != SCORE)
            lines.append(
                f"{setup}, {pool}: Spearman {row['spearman']:+.2f} (exact p = {row['spearman_p']:.2g}), Kendall {row['kendall']:+.2f}, "
                f"{row['seeds']} seed(s); rivals: {rivals}"
            )
    signs = [value < 0 for value in rows.get("spearman", [])]
    clear = [row["spearman"] < 0 and row["spearman_p"] < CLEAR_P for _, row in rows.iterrows()]
    says = "a lower score goes with a higher accuracy of the quantized student (judged over all 16); clear: exact p < 0.05"
    return Claim("C1", says, verdict(signs, clear), tuple(lines), len(rows), sum(behind[name] for name in rows.index))


def _c2(by_ranker: dict[str, pd.DataFrame], behind: dict[str, int]) -> Claim:
    ours, theirs = (by_ranker.get(name, pd.DataFrame()) for name in (SCORE, STDDEV))
    both = [setup for setup in ours.index if setup in theirs.index]
    gains = {setup: ours.loc[setup, "pick_accuracy"] - theirs.loc[setup, "pick_accuracy"] for setup in both}
    lines = tuple(
        f"{setup}: {ours.loc[setup, 'pick']} {ours.loc[setup, 'pick_accuracy']:.2f} % against {theirs.loc[setup, 'pick']} "
        f"{theirs.loc[setup, 'pick_accuracy']:.2f} %, {gain:+.2f} points; lost to the best: {ours.loc[setup, 'regret']:.2f} and "
        f"{theirs.loc[setup, 'regret']:.2f}"
        for setup, gain in gains.items()
    )
    says = "the score's pick beats the minimal-variance pick; clear: by more than a point"
    result = verdict([gain > 0 for gain in gains.values()], [gain > 1 for gain in gains.values()])
    return Claim("C2", says, result, lines, len(both), sum(behind[name] for name in both))


def _improvement(name: str, says: str, stores: Sequence[Store], tables: Callable[[str], list[Gains]]) -> Claim:
    """C3 or C4: does our pick gain over the base augmentation, method by method?"""
    lines, signs, clear, setups, keys = [], [], [], 0, set()
    for store in stores:
        for gains in tables(store.profile):
            runs = [run for arms in gains.students(store).values() for students in arms.values() for run in students]
            runs += [gains.setup.teacher, gains.scored.score]
            if not all(map(store.done, runs)):
                continue
            setups += 1
            keys |= {run.key for run in runs}
            table = gains_table([gains], store)
            ours = table[table["arm"].map(way) == OURS]
            if (ours["augmentation"] == "none").all():  # the base augmentation itself: no method can gain, which counts once
                ours = ours.iloc[:1]
            signs += list(ours["difference"] > 0)
            clear += list(_clear(ours))
            for how in (OURS, OURS_OF_SEVEN, MINIMAL, RELEASED):
                rows = table[table["arm"].map(way) == how]
                if len(rows):
                    lines.append(_gain_line(f"{store.profile}, {gains.setup.data.name} {gains.setup.model}, {how}", rows))
    return Claim(name, says, verdict(signs, clear), tuple(lines), setups, len(keys))


def _clear(rows: pd.DataFrame) -> pd.Series:
    """Whether each row's difference is above 0 by more than chance gives in one of twenty cases; one seed is never clear."""
    return rows["difference"] > rows["n"].map(lambda n: t_critical(n - 1)) * rows["difference_se"]


def _gain_line(title: str, rows: pd.DataFrame) -> str:
    """One way to choose in one set-up: its augmentation, how many methods gain, the mean and the extremes."""
    augmentation, change = rows["augmentation"].iloc[0], rows["difference"]
    if augmentation == "none":
        return f"{title}: none, the base augmentation itself: nothing changes for any of {len(rows)} methods"
    return (
        f"{title}: {augmentation}: {int((change > 0).sum())} of {len(rows)} methods gain over the base augmentation ({int(_clear(rows).sum())} "
        f"clearly), {change.mean():+.2f} points on average, {change.min():+.2f} to {change.max():+.2f}, {int(rows['n'].min())} seed(s)"
    )


def _c5(by_ranker: dict[str, pd.DataFrame], behind: dict[str, int]) -> Claim:
    rows = by_ranker.get(SCORE, pd.DataFrame())
    says = "it holds across architectures and data sets; needs at least two of each"
    kinds = [setup.split(", ")[:2] for setup in rows.index]
    datasets, models = ({kind[k] for kind in kinds} for k in (0, 1))
    lines = (f"data sets: {', '.join(sorted(datasets)) or 'none'}; networks: {', '.join(sorted(models)) or 'none'}",)
    if len(datasets) < 2 or len(models) < 2:
        return Claim("C5", says, "not tested", lines, len(rows), sum(behind[name] for name in rows.index))
    signs = [value < 0 for value in rows["spearman"]]
    return Claim("C5", says, verdict(signs, signs), lines, len(rows), sum(behind[name] for name in rows.index))


def _c6(costs: pd.DataFrame, behind: dict[str, int]) -> Claim:
    lines = tuple(
        f"{row.setup}: scoring {row.candidates} candidates {row.scoring_cpu:.0f} processor seconds, one student of {row.epochs} epochs "
        f"{row.student_cpu:.0f}, a student for each candidate {row.sweep_cpu:.0f} ({row.device})"
        for row in costs.itertuples()
    )
    shares = list(costs.get("share_of_student", []))
    says = "selection costs little beside training; the sign: less than the sweep it replaces; clear: less than one student"
    result = verdict([row.scoring_cpu < row.sweep_cpu for row in costs.itertuples()], [share < CHEAP for share in shares])
    return Claim("C6", says, result, lines, len(costs), sum(behind.values()) if len(costs) else 0)


def _c7(stores: Sequence[Store]) -> Claim:
    lines, setups, records = [], set(), 0
    for store in stores:
        table, comparison = report.methods_table(store), experiments.methods(store.profile)
        runs = {run.key: run for runs in (comparison.quantizers | comparison.losses).values() for run in runs}
        done = sum(store.done(run) for run in runs.values())  # EWGS + KD stands in both lists, and counts once
        records += done
        setups |= {comparison.setup.name} if done else set()
        for kind, rows in table.groupby("kind") if len(table) else ():
            least = rows.loc[rows["accuracy_mean"].idxmin()]
            lines.append(
                f"{store.profile}: {len(rows)} {'losses' if kind == 'loss' else 'quantizers'} train; the least accurate, "
                f"{least['method']}, reaches {least['accuracy_mean']:.1f} %"
            )
    says = "it is compatible with any KD or QAT algorithm (the score does not look at the student); whether each gains is C3 and C4"
    # That they run is half of the claim, the smaller half.
    return Claim("C7", says, "partly" if lines else "not tested", tuple(lines), len(setups), records)


def markdown(found: Sequence[Claim]) -> str:
    """The page results/CLAIMS.md."""
    parts = [
        "# The paper's claims\n\nWritten by `make figures` from the committed records; the rules are in `paperlib/claims.py`. The paper's own "
        "numbers are not at hand.\n\n| claim | what it says | verdict | set-ups | records |\n|---|---|---|---|---|\n"
        + "".join(f"| {c.name} | {c.says} | **{c.verdict}** | {c.setups} | {c.records} |\n" for c in found)
    ]
    for claim in found:
        parts.append(f"## {claim.name}: {claim.verdict}\n\n" + "".join(f"- {line}\n" for line in claim.evidence))
    return "\n".join(parts)
