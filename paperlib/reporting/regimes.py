"""The set-ups of docs/experiments.md: does the score rank the students, do its rivals, and which
predictions held. No torch here.

Every rule is that document's; nothing here knows a number that no record holds.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..basics.statistics import regret, spearman, spearman_within, t_critical
from ..study import plan
from ..study.plan import STRONG, Gains, Setup, Way
from ..study.profiles import CANDIDATES, CUTMIX
from ..study.store import Store
from .report import COLUMNS, setup_rows
from .theory import teachers_table, theory_table

AGREEMENT = 0.6  # below, students of two seeds are too unlike to tell rankers apart
LEVEL = 0.05
INTERVAL_DRAWS = 2_000
FORMULA = 0.9  # P-f
CANNOT_TELL, HOLDS, REVERSED, NO_ORDER = "cannot tell", "holds", "reversed", "no order"
SAME_PICK, NO_DIFFERENCE = "same pick", "no difference"
KEPT, BROKEN, OPEN = "kept", "broken", "open"


def accuracies(
    setup: Setup, store: Store, half: int | None = None, epoch: int = -1
) -> pd.DataFrame:
    """Students' accuracies, percent: a row an augmentation, a column a seed; of the seeds that have
    a student for every one.

    half  None all test images, 0 the choosing half, 1 the judging half. epoch  finished epochs; -1
    the headline accuracy.
    """
    found: dict[int, dict[str, float]] = {}
    for run in setup.students:
        record = store.finished(run)
        value = _accuracy(record["result"], half, epoch) if record else None
        if value is not None:
            found.setdefault(run.seed, {})[run.augmentation] = value
    whole = {
        seed: values for seed, values in sorted(found.items()) if len(values) == len(CANDIDATES)
    }
    return pd.DataFrame(whole, index=list(CANDIDATES))


def _accuracy(result: dict[str, Any], half: int | None, epoch: int) -> float | None:
    """None where a record of earlier code, or of another schedule, does not have it."""
    if half is None and epoch == -1:
        return result["accuracy"]
    row = result.get("curve", [{}])[epoch if epoch == -1 else epoch - 1]
    return (
        row.get("test_accuracy")
        if half is None
        else row.get("test_accuracy_halves", [None, None])[half]
    )


def agreement(table: pd.DataFrame) -> float:
    """Spearman's correlation of two seeds' accuracies, mean over the pairs of seeds; NaN with one
    seed. table  as `accuracies` gives.
    """
    pairs = [spearman(table[a], table[b]).value for a, b in combinations(table.columns, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def pooled_sd(table: pd.DataFrame) -> tuple[float, int]:
    """Standard deviation over seeds, pooled over the augmentations, and its degrees of freedom; NaN
    and 0 with one seed.
    """
    n, seeds = table.shape
    return (
        (float(np.sqrt(table.var(axis=1).mean())), n * (seeds - 1))
        if seeds > 1
        else (float("nan"), 0)
    )


def spearman_interval(metric: Sequence[float], table: pd.DataFrame) -> tuple[float, float]:
    """95 % of Spearman's correlations of a metric with accuracies drawn around their means, with
    the pooled deviation of seeds.

    metric  one number a row of `table`, as `accuracies` gives it. NaN with one seed.
    """
    deviation, degrees = pooled_sd(table)
    if not degrees:
        return float("nan"), float("nan")
    means = table.mean(axis=1).to_numpy()
    draws = means + np.random.default_rng(0).normal(
        0, deviation / table.shape[1] ** 0.5, (INTERVAL_DRAWS, len(means))
    )
    ranks = stats.rankdata(draws, axis=1)
    of_metric = stats.rankdata(metric)
    values = ((ranks - ranks.mean()) @ (of_metric - of_metric.mean())) / (
        ranks.std() * of_metric.std() * ranks.shape[1]
    )
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _scores(setup: Setup, store: Store) -> pd.DataFrame | None:
    record = store.finished(setup.score)
    return (
        None
        if record is None
        else pd.DataFrame(record["result"]["scores"])
        .set_index("augmentation")
        .loc[list(CANDIDATES)]
    )


def regime_rows(store: Store) -> pd.DataFrame:
    """One row per set-up of docs/experiments.md and augmentation, as in the ranking table, with the
    teacher's error and confidence.
    """
    rows = []
    for setup in plan.regimes(store.profile):
        rows += [{"regime": setup.regime} | row for row in setup_rows(setup, store, {})]
    return pd.DataFrame(
        rows, columns=["regime", *COLUMNS, "error", "confidence", "centroid_entropy"]
    )


def verdicts_table(store: Store) -> pd.DataFrame:
    """One row per set-up with students of a whole seed: what C1 and C2 come to there.

    seeds; agreement  of seeds; spread  standard deviation of the mean accuracies, and seed_sd that
                      over seeds (points); spearman, p, low,
    high  of score and mean accuracy, exact two-sided p and 95 % interval; within, within_p
          exchanging only within CutMix or not;
    plain  Spearman over the eight without CutMix; order  the verdict on C1. pick, minimal  the two
    choices, gain  the first's accuracy over the second's, gain_se; choice  the verdict on C2;
    regret, minimal_regret  points lost to the best.
    """
    rows = []
    for setup in plan.regimes(store.profile):
        scores, table = _scores(setup, store), accuracies(setup, store)
        if scores is None or table.empty:
            continue
        means, metric = table.mean(axis=1), scores["score"]
        deviation, degrees = pooled_sd(table)
        found, agree = spearman(metric, means), agreement(table)
        mixed = [name.endswith(CUTMIX) for name in CANDIDATES]
        within, plain = spearman_within(metric, means, mixed), [not each for each in mixed]
        low, high = spearman_interval(metric, table)
        pick, minimal = metric.idxmin(), scores["teacher_stddev"].idxmin()
        gain, error = means[pick] - means[minimal], deviation * (2 / table.shape[1]) ** 0.5
        rows.append(
            {
                "regime": setup.regime,
                "setup": setup.name,
                "seeds": table.shape[1],
                "agreement": agree,
                "spread": means.std(),
                "seed_sd": deviation,
                "spearman": found.value,
                "p": found.p,
                "low": low,
                "high": high,
                "within": within.value,
                "within_p": within.p,
                "plain": spearman(metric[plain], means[plain]).value,
                "order": _order(agree, found.value, found.p),
                "pick": pick,
                "minimal": minimal,
                "gain": gain,
                "gain_se": error,
                "choice": SAME_PICK if pick == minimal else _direction(gain, error, degrees),
                "regret": regret(metric, means),
                "minimal_regret": regret(scores["teacher_stddev"], means),
            }
        )
    return pd.DataFrame(rows)


def _order(agree: float, value: float, p: float) -> str:
    """C1's verdict. Without a second seed nothing can be told."""
    if not agree >= AGREEMENT:
        return CANNOT_TELL
    return NO_ORDER if p >= LEVEL else HOLDS if value < 0 else REVERSED


def _direction(difference: float, error: float, degrees: int) -> str:
    """Whether a difference is clearly above or below 0: t test, one-sided."""
    if not degrees:
        return CANNOT_TELL
    bound = t_critical(degrees) * error
    return HOLDS if difference > bound else REVERSED if difference < -bound else NO_DIFFERENCE


# ------------------------------------------------------------------------------------------- rivals


def halving_rungs(epochs: int) -> list[tuple[int, int]]:
    """(students that go on, finished epochs) of successive halving: 16, 8, 4 and 2, up to the whole
    schedule.

    >>> halving_rungs(40), halving_rungs(20)
    ([(16, 5), (8, 10), (4, 20), (2, 40)], [(16, 5), (8, 10), (4, 15), (2, 20)])
    """
    third = 20 if epochs > 20 else 15
    return [(16, 5), (8, 10), (4, third), (2, epochs)]


def halving(by_epoch: dict[int, pd.Series], rungs: Sequence[tuple[int, int]]) -> tuple[str, int]:
    """Successive halving over students (Jamieson & Talwalkar, 2016): the winner, and the student
    epochs that it costs.

    by_epoch  finished epochs -> accuracy of each candidate on the choosing half. rungs  as
              `halving_rungs` gives them.

    >>> halving({1: pd.Series({"a": 3, "b": 2, "c": 1, "d": 0}),
    ...     4: pd.Series({"a": 0, "b": 9, "c": 9, "d": 9})}, [(4, 1), (2, 4)])
    ('b', 10)
    """
    left, cost, before = list(by_epoch[rungs[0][1]].index), 0, 0
    for count, epochs in rungs:
        ranked = (
            by_epoch[before][left].sort_values(ascending=False, kind="stable").index
            if before
            else left
        )
        left = list(ranked[:count])
        cost, before = cost + count * (epochs - before), epochs
    return by_epoch[before][left].idxmax(), cost


def rivals_table(store: Store) -> pd.DataFrame:
    """One row per set-up and way to choose, judged on the judging half of the test images.

    spearman  of metric and mean accuracy there, NaN for halving; pick; regret  points lost to the
    best; tells  whether the seeds agree well enough for the set-up to tell rankers apart;
    student_epochs  that the choice costs. Halving chooses by the seed 0 students.
    """
    rows = []
    for setup in plan.regimes(store.profile):
        scores, judged = _scores(setup, store), accuracies(setup, store, half=1)
        if scores is None or judged.empty:
            continue
        means, tells = judged.mean(axis=1), agreement(accuracies(setup, store)) >= AGREEMENT
        facts = {"regime": setup.regime, "setup": setup.name, "tells": bool(tells)}
        for name, metric in _metrics(setup, scores, store).items():
            rows.append(
                facts
                | {
                    "rival": name,
                    "spearman": spearman(metric, means).value,
                    "pick": metric.idxmin(),
                    "regret": regret(metric, means),
                    "student_epochs": 0,
                }
            )
        winner, cost = _halved(setup, store)
        if winner:
            rows.append(
                facts
                | {
                    "rival": HALVING,
                    "spearman": float("nan"),
                    "pick": winner,
                    "regret": means.max() - means[winner],
                    "student_epochs": cost,
                }
            )
    return pd.DataFrame(rows)


SCORE, CALIBRATED, HELD_OUT, RELATIVE, HALVING = (
    "score D - CMI",
    "score, calibrated teacher",
    "score on held-out images",
    "- CMI / H(centroid)",
    "halving over students",
)


def _metrics(setup: Setup, scores: pd.DataFrame, store: Store) -> dict[str, pd.Series]:
    """Way to choose -> metric, lower is better."""
    found = {
        SCORE: scores["score"],
        "divergence D": scores["divergence"],
        "- CMI": -scores["cmi"],
        "teacher cross-entropy": scores["cross_entropy"],
        "T. stddev": scores["teacher_stddev"],
    }
    if "centroid_entropy" in scores:
        found[RELATIVE] = -scores["cmi"] / scores["centroid_entropy"]
    if record := store.finished(plan.held_out(setup)):
        rows = (
            pd.DataFrame(record["result"]["scores"]).set_index("augmentation").loc[list(CANDIDATES)]
        )
        found |= {CALIBRATED: rows["calibrated_score"], HELD_OUT: rows["held_out_score"]}
    return found


def _halved(setup: Setup, store: Store) -> tuple[str, int]:
    """What halving chooses among the students of seed 0; "" for schedules that were not evaluated
    at its rungs.
    """
    rungs = halving_rungs(setup.student_recipe.epochs)
    if setup.student_recipe.evaluate_every != 5 or setup.student_recipe.epochs < rungs[2][1]:
        return "", 0
    by_epoch = {epochs: accuracies(setup, store, half=0, epoch=epochs) for _, epochs in rungs}
    if any(0 not in table for table in by_epoch.values()):
        return "", 0
    return halving({epochs: table[0] for epochs, table in by_epoch.items()}, rungs)


# -------------------------------------------------------------------------- capacity, methods, bits


def capacity_table(store: Store) -> pd.DataFrame:
    """What strong augmentation is worth to full-precision networks: a row a network kind and data,
    complete ones.

    none, and each of `plan.STRONG`  mean accuracy over seeds; gain  of the better strong one over
    none (points).
    """
    rows, seen = [], set()
    for setup in plan.regimes(store.profile):
        runs = plan.capacity(setup)
        records = {name: [store.finished(run) for run in of_name] for name, of_name in runs.items()}
        name = f"{setup.data.label}, {setup.model}"
        if not records or name in seen or not all(all(each) for each in records.values()):
            continue
        seen.add(name)
        means = {
            a: float(np.mean([r["result"]["accuracy"] for r in each]))
            for a, each in records.items()
        }
        gain = max(means[a] for a in STRONG) - means["none"]
        rows.append(
            {"network": name, "dataset": setup.data.name, "model": setup.model}
            | means
            | {"gain": gain}
        )
    return pd.DataFrame(rows)


def _pooled_gains(found: Gains, store: Store) -> pd.DataFrame:
    """Differences of the score's pick to the base augmentation and to the minimal-variance pick, a
    row a method.
    """
    rows = []
    for method, arms in found.students(store).items():
        records = {
            arm: [record["result"]["accuracy"] for run in runs if (record := store.finished(run))]
            for arm, runs in arms.items()
        }
        if (
            not all(len(values) == len(found.seeds) for values in records.values())
            or Way.OURS not in records
        ):
            continue
        distinct = {arms[arm][0].augmentation: values for arm, values in records.items()}
        deviation, degrees = pooled_sd(pd.DataFrame(distinct).T)
        error = deviation * (2 / len(found.seeds)) ** 0.5
        for other in (Way.BASE, Way.MINIMAL):
            pick, rival = arms[Way.OURS][0].augmentation, arms[other][0].augmentation
            difference = float(np.mean(records[Way.OURS]) - np.mean(records[other]))
            rows.append(
                {
                    "method": f"{method[0]} W{method[1]}A{method[1]} {method[2]}",
                    "against": other,
                    "pick": pick,
                    "rival": rival,
                    "difference": difference,
                    "se": error,
                    "seeds": len(found.seeds),
                    "verdict": SAME_PICK
                    if pick == rival
                    else _direction(difference, error, degrees),
                }
            )
    return pd.DataFrame(rows)


def methods_verdicts(store: Store) -> pd.DataFrame:
    """E, G, H and I of docs/experiments.md: one row per part, method and rival arm, of the methods
    whose students are all done.
    """
    parts = [
        table.assign(part=part)
        for part, found in plan.regime_gains(store.profile, store).items()
        if len(table := _pooled_gains(found, store))
    ]
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=["part", "method", "against", "verdict"])
    )


def overall(verdicts: Sequence[str]) -> str:
    """What methods come to together: `HOLDS` if clearly better in more than half and clearly worse
    in none; turned round, `REVERSED`.

    >>> overall([HOLDS, HOLDS, NO_DIFFERENCE]), overall([HOLDS, REVERSED]), overall([SAME_PICK,
    ...     SAME_PICK]), overall([])
    ('holds', 'no difference', 'same pick', 'open')
    """
    if not verdicts:
        return OPEN
    if set(verdicts) == {SAME_PICK}:
        return SAME_PICK
    for one, other in ((HOLDS, REVERSED), (REVERSED, HOLDS)):
        if 2 * verdicts.count(one) > len(verdicts) and other not in verdicts:
            return one
    return NO_DIFFERENCE


# -------------------------------------------------------------------------------------- predictions


def predictions_table(store: Store) -> pd.DataFrame:
    """P-a to P-f: prediction, what it says, verdict (kept, broken, open), and the numbers that
    decide.
    """
    teachers = teachers_table(theory_table(store))
    known = teachers[(teachers["source"] != "earlier") & teachers["confidence"].notna()]
    verdicts = verdicts_table(store)
    found = [
        _p_a(known),
        _p_b(known),
        _p_c(known, verdicts, capacity_table(store)),
        _p_d(known),
        *_p_e(rivals_table(store)),
        _p_f(teachers),
    ]
    table = pd.DataFrame(found, columns=["prediction", "says", "verdict", "numbers"])
    return table.assign(verdict=[_settled(row, store) for row in table.itertuples()])


# Predictions about every teacher or set-up, which one that disagrees breaks; the others are about
# all of them together. Those about teachers wait for these runs, the others for students too.
OF_EACH, OF_TEACHERS = ("P-b", "P-c", "P-d", "P-f"), ("P-a", "P-b", "P-d", "P-f")


def _settled(row: Any, store: Store) -> str:
    """The verdict of a prediction, or open while runs that decide it are missing."""
    if row.verdict == BROKEN and row.prediction in OF_EACH:
        return BROKEN
    tables = ("theory",) + (() if row.prediction in OF_TEACHERS else ("regimes", "regime_gains"))
    runs = [run for table in tables for run in plan.runs_of(store.profile, table, store)]
    return row.verdict if all(map(store.done, runs)) else OPEN


def _decided(kept: Sequence[bool]) -> str:
    return OPEN if not kept else KEPT if all(kept) else BROKEN


def _p_a(teachers: pd.DataFrame) -> tuple[str, str, str, str]:
    parts = [("all", teachers), *teachers.groupby("dataset")]
    values = {
        str(name): spearman(part["confidence"], part["pick_error"])
        for name, part in parts
        if len(part) > 2
    }
    numbers = "; ".join(
        f"{name}: {v.value:+.2f} (p = {v.p:.2g}, {v.n} teachers)" for name, v in values.items()
    )
    says = "the pick's teacher error rises with the teacher's confidence"
    return "P-a", says, _decided([v.value > 0 for v in values.values()]), numbers


def _each(
    name: str, says: str, rows: pd.DataFrame, right: pd.Series, column: str
) -> tuple[str, str, str, str]:
    values = rows[column]
    numbers = (
        f"{int(right.sum())} of {len(rows)} teachers as predicted; Spearman "
        f"{values.min():+.2f} to {values.max():+.2f}, "
        f"median {values.median():+.2f}"
        if len(rows)
        else "no such teacher yet"
    )
    return name, says, _decided(list(right)), numbers


def _p_b(teachers: pd.DataFrame) -> tuple[str, str, str, str]:
    rows = teachers[(teachers["kind"] == "confident") & teachers["valley"].notna()]
    says = "a confident teacher's score falls with the teacher's error, up to the valley"
    return _each("P-b", says, rows, (rows["valley"] < 0) & (rows["valley_p"] < LEVEL), "valley")


def _p_c(
    teachers: pd.DataFrame, verdicts: pd.DataFrame, capacity: pd.DataFrame
) -> tuple[str, str, str, str]:
    says, kept, lines = (
        "with a confident teacher, the score agrees with students where the network kind gains",
        [],
        [],
    )
    gains = {} if capacity.empty else capacity.set_index(["dataset", "model"])["gain"].to_dict()
    confident = teachers[
        (teachers["source"] == "regime") & (teachers["kind"] == "confident")
    ].set_index("teacher")
    for row in verdicts.itertuples():
        if row.regime not in confident.index or not row.agreement >= AGREEMENT:
            continue
        teacher = confident.loc[row.regime]
        gain = gains.get((teacher["dataset"], teacher["model"]))
        if gain is None:
            continue
        kept.append((row.plain < 0) == (gain > 0))
        lines.append(
            f"{row.regime}: full precision gains {gain:+.2f} points, Spearman without "
            f"CutMix {row.plain:+.2f}"
        )
    return "P-c", says, _decided(kept), "; ".join(lines) or "no set-up has all that decides"


def _p_d(teachers: pd.DataFrame) -> tuple[str, str, str, str]:
    rows = teachers[(teachers["kind"] == "soft") & teachers["mild"].notna()]
    right = (rows["mild"] > 0) & (rows["mild_p"] < LEVEL)
    return _each("P-d", "a soft teacher's score prefers the mildest", rows, right, "mild")


def _p_e(rivals: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    found = []
    for number, name in enumerate((CALIBRATED, HELD_OUT, RELATIVE, HALVING), start=1):
        says, part = (
            f"{name} is better than the score",
            rivals[rivals["tells"]] if len(rivals) else rivals,
        )
        wide = part[part["rival"].isin((SCORE, name))] if len(part) else part
        lost = (
            wide.pivot(index="regime", columns="rival", values="regret").dropna()
            if len(wide)
            else pd.DataFrame()
        )
        if name not in lost:
            found.append((f"P-e{number}", says, OPEN, "no set-up can tell yet"))
            continue
        order = wide.pivot(index="regime", columns="rival", values="spearman").loc[lost.index]
        better = lost[name].mean() < lost[SCORE].mean()
        lower = int((order[name] < order[SCORE]).sum())
        kept = better and (name == HALVING or 2 * lower > len(lost))
        numbers = (
            f"mean regret {lost[name].mean():.2f} against {lost[SCORE].mean():.2f} "
            f"points, {len(lost)} set-ups"
        )
        if name != HALVING:
            numbers += f"; lower Spearman in {lower}"
        else:
            cost = part.loc[part["rival"] == HALVING, "student_epochs"].mean()
            numbers += f"; costs {int(cost)} student epochs"
        found.append((f"P-e{number}", says, KEPT if kept else BROKEN, numbers))
    return found


def _p_f(teachers: pd.DataFrame) -> tuple[str, str, str, str]:
    says = f"the formula ranks as the score: Spearman at least {FORMULA}"
    return _each("P-f", says, teachers, teachers["formula"] >= FORMULA, "formula")


def by_claim(stores: Sequence[Store]) -> dict[str, str]:
    """Claim -> the verdict in each regime of docs/experiments.md, of the profiles with more than
    one seed; "open" where runs are missing.
    """
    found = {}
    for store in stores:
        setups = [setup for setup in plan.regimes(store.profile) if len(setup.seeds) > 1]
        if not setups:
            continue
        table, methods = verdicts_table(store), methods_verdicts(store)
        told = table.set_index("regime") if len(table) else table

        def of(column: str, setups: Sequence[Setup] = setups, told: pd.DataFrame = told) -> str:
            return ", ".join(
                f"{s.regime} {told.loc[s.regime, column] if s.regime in told.index else OPEN}"
                for s in setups
            )

        def part(name: str, methods: pd.DataFrame = methods) -> str:
            rows = methods[(methods["part"] == name) & (methods["against"] == Way.BASE)]
            return f"{name} {overall(list(rows['verdict']))}"

        found |= {
            "C1": of("order"),
            "C2": of("choice"),
            "C3": part("E"),
            "C4": part("G"),
            "C5": f"{part('H')}, {part('I')}",
        }
    return found
