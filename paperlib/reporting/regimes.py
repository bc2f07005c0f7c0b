"""The set-ups of docs/experiments.md: whether the score and its rivals rank the students, and which
predictions held. No torch here.

Every rule is that document's. No number is known here that no record holds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ..basics.statistics import direction, regret, rho, spearman, spearman_within
from ..study import plan
from ..study.config import Run
from ..study.gains import Gains, Way, result_of
from ..study.plan import STRONG
from ..study.profiles import CANDIDATES, CUTMIX, Setup
from ..study.store import Store
from .report import COLUMNS, accuracies, scores_of, seed_correlations, setup_rows
from .theory import teachers_table, theory_table

AGREEMENT = 0.6  # below, students of two seeds are too unlike to tell rankers apart
LEVEL = 0.05
INTERVAL_DRAWS = 2_000
FORMULA = 0.9  # P-f
CANNOT_TELL, HOLDS, REVERSED, NO_ORDER = "cannot tell", "holds", "reversed", "no order"
SAME_PICK, NO_DIFFERENCE = "same pick", "no difference"
KEPT, BROKEN, OPEN = "kept", "broken", "open"


def agreement(table: pd.DataFrame) -> float:
    """Spearman's correlation of two seeds' accuracies, mean over the pairs of seeds. It is NaN with
    one seed. table  as `accuracies` gives.
    """
    pairs = seed_correlations(table)
    return float(np.mean(pairs)) if pairs else float("nan")


def pooled_sd(table: pd.DataFrame) -> tuple[float, int]:
    """Standard deviation over seeds, pooled over the augmentations, and its degrees of freedom. It
    is NaN and 0 with one seed.
    """
    n, seeds = table.shape
    if seeds < 2:
        return float("nan"), 0
    return float(np.sqrt(table.var(axis=1).mean())), n * (seeds - 1)


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


def regime_rows(store: Store) -> pd.DataFrame:
    """One row per set-up of docs/experiments.md and augmentation, as in the ranking table, with the
    teacher's error and confidence.
    """
    rows = [
        {"regime": setup.regime} | row
        for setup in plan.regimes(store.profile)
        for row in setup_rows(setup, store, {})
    ]
    columns = ["regime", *COLUMNS, "error", "confidence", "centroid_entropy"]
    return pd.DataFrame(rows, columns=columns)


def verdicts_table(store: Store) -> pd.DataFrame:
    """One row per set-up with students of a whole seed: the verdicts on C1 and C2 there.

    seeds; agreement  of seeds; spread  standard deviation of the mean accuracies, and seed_sd that
    over seeds (points); spearman, p, low, high  of score and mean accuracy, exact two-sided p and
    95 % interval; within, within_p  exchanging only within CutMix or not; plain  Spearman over the
    eight without CutMix; order  the verdict on C1. pick, minimal  the two choices; gain  the
    first's accuracy over the second's, gain_se; choice  the verdict on C2; regret, minimal_regret
    points lost to the best.
    """
    found = [
        _verdicts(setup, scores.loc[list(CANDIDATES)], table)
        for setup in plan.regimes(store.profile)
        if (scores := scores_of(setup.score, store)) is not None
        and not (table := accuracies(setup, store)).empty
    ]
    return pd.DataFrame(found)


def _verdicts(setup: Setup, scores: pd.DataFrame, table: pd.DataFrame) -> dict[str, object]:
    """A row of the `verdicts_table`."""
    means, metric, variance = table.mean(axis=1), scores["score"], scores["teacher_stddev"]
    deviation, degrees = pooled_sd(table)
    found, agree = spearman(metric, means), agreement(table)
    mixed = means.index.str.endswith(CUTMIX)
    within = spearman_within(metric, means, mixed)
    low, high = spearman_interval(metric, table)
    pick, minimal = metric.idxmin(), variance.idxmin()
    gain, error = means[pick] - means[minimal], deviation * (2 / table.shape[1]) ** 0.5
    return {
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
        "plain": rho(metric[~mixed], means[~mixed]),
        "order": _order(agree, found.value, found.p),
        "pick": pick,
        "minimal": minimal,
        "gain": gain,
        "gain_se": error,
        "choice": SAME_PICK if pick == minimal else _direction(gain, error, degrees),
        "regret": regret(metric, means),
        "minimal_regret": regret(variance, means),
    }


def _order(agree: float, value: float, p: float) -> str:
    """C1's verdict. Without a second seed nothing can be told."""
    if not agree >= AGREEMENT:
        return CANNOT_TELL
    return NO_ORDER if p >= LEVEL else HOLDS if value < 0 else REVERSED


def _direction(difference: float, error: float, degrees: int) -> str:
    """Whether a difference is clearly above or below 0: t test, one-sided."""
    if not degrees:
        return CANNOT_TELL
    return {1: HOLDS, -1: REVERSED, 0: NO_DIFFERENCE}[direction(difference, error, degrees + 1)]


# ------------------------------------------------------------------------------------------- rivals

SCORE, HALVING = "score D - CMI", "halving over students"
CALIBRATED, HELD_OUT = "score, calibrated teacher", "score on held-out images"
RELATIVE = "- CMI / H(centroid)"


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
        if before:
            ranked = by_epoch[before][left].sort_values(ascending=False, kind="stable")
            left = list(ranked.index[:count])
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
        scores, judged = scores_of(setup.score, store), accuracies(setup, store, half=1)
        if scores is None or judged.empty:
            continue
        means, tells = judged.mean(axis=1), agreement(accuracies(setup, store)) >= AGREEMENT
        choices = [
            (name, rho(metric, means), metric.idxmin(), regret(metric, means), 0)
            for name, metric in _metrics(setup, scores.loc[means.index], store).items()
        ]
        winner, cost = _halved(setup, store)
        if winner:
            choices.append((HALVING, float("nan"), winner, means.max() - means[winner], cost))
        rows += [(setup.regime, setup.name, bool(tells), *choice) for choice in choices]
    columns = "regime setup tells rival spearman pick regret student_epochs".split()
    return pd.DataFrame(rows, columns=columns)


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
    rows = scores_of(plan.held_out(setup), store)
    if rows is not None:
        rows = rows.loc[scores.index]
        found |= {CALIBRATED: rows["calibrated_score"], HELD_OUT: rows["held_out_score"]}
    return found


def _halved(setup: Setup, store: Store) -> tuple[str, int]:
    """What halving chooses among the students of seed 0. It is "" for schedules that were not
    evaluated at its rungs.
    """
    recipe = setup.student_recipe
    rungs = halving_rungs(recipe.epochs)
    if recipe.evaluate_every != 5 or recipe.epochs < rungs[2][1]:
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
    rows = {}
    for setup in plan.regimes(store.profile):
        name, runs = f"{setup.data.label}, {setup.model}", plan.capacity(setup)
        found = _accuracies_of(runs, store)
        if not found or name in rows:
            continue
        means = {augmentation: float(np.mean(values)) for augmentation, values in found.items()}
        facts = {"network": name, "dataset": setup.data.name, "model": setup.model}
        gain = max(means[strong] for strong in STRONG) - means["none"]
        rows[name] = facts | means | {"gain": gain}
    return pd.DataFrame(rows.values())


def _accuracies_of(runs: dict[str, list[Run]], store: Store) -> dict[str, list[float]] | None:
    """Name -> accuracies of its runs. None before all are done."""
    results = {name: [result_of(run, store) for run in of] for name, of in runs.items()}
    if not all(all(of) for of in results.values()):
        return None
    return {name: [result["accuracy"] for result in of] for name, of in results.items()}


def _pooled_gains(found: Gains, store: Store) -> pd.DataFrame:
    """Differences of the score's pick to the base augmentation and to the minimal-variance pick, a
    row a method.
    """
    rows = []
    for (quantizer, bits, loss), arms in found.students(store).items():
        values = _accuracies_of(arms, store)
        if not values or Way.OURS not in arms:
            continue
        names = {arm: runs[0].augmentation for arm, runs in arms.items()}
        # Arms with the same augmentation share their students.
        distinct = {names[arm]: of_arm for arm, of_arm in values.items()}
        deviation, degrees = pooled_sd(pd.DataFrame(distinct).T)
        error = deviation * (2 / len(found.seeds)) ** 0.5
        pick = names[Way.OURS]
        for other in (Way.BASE, Way.MINIMAL):
            difference = float(np.mean(values[Way.OURS]) - np.mean(values[other]))
            same = pick == names[other]
            rows.append(
                {
                    "method": f"{quantizer} W{bits}A{bits} {loss}",
                    "against": other,
                    "pick": pick,
                    "rival": names[other],
                    "difference": difference,
                    "se": error,
                    "seeds": len(found.seeds),
                    "verdict": SAME_PICK if same else _direction(difference, error, degrees),
                }
            )
    return pd.DataFrame(rows)


def methods_verdicts(store: Store) -> pd.DataFrame:
    """E, G, H and I of docs/experiments.md: one row per part, method and rival arm, of the methods
    whose students are all done.
    """
    parts = [
        _pooled_gains(found, store).assign(part=part)
        for part, found in plan.regime_gains(store.profile, store).items()
    ]
    empty = pd.DataFrame(columns=["part", "method", "against", "verdict"])
    return pd.concat([part for part in parts if len(part)] or [empty], ignore_index=True)


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on several methods together: `HOLDS` if clearly better in more than half and
    clearly worse in none; turned round, `REVERSED`.

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


def by_claim(stores: Sequence[Store]) -> dict[str, str]:
    """Claim -> the verdict in each regime of docs/experiments.md, of the profiles with more than
    one seed; "open" where runs are missing.
    """
    found = {}
    for store in stores:
        names = [setup.regime for setup in plan.regimes(store.profile) if len(setup.seeds) > 1]
        if not names:
            continue
        told = verdicts_table(store).reindex(columns=["regime", "order", "choice"])
        told = told.set_index("regime").astype(object).reindex(names, fill_value=OPEN)
        methods = methods_verdicts(store)
        methods = methods[methods["against"] == Way.BASE]
        part = {
            name: f"{name} {overall(list(methods.loc[methods['part'] == name, 'verdict']))}"
            for name in "EGHI"
        }
        found |= {
            "C1": ", ".join(f"{name} {order}" for name, order in told["order"].items()),
            "C2": ", ".join(f"{name} {choice}" for name, choice in told["choice"].items()),
            "C3": part["E"],
            "C4": part["G"],
            "C5": f"{part['H']}, {part['I']}",
        }
    return found


# -------------------------------------------------------------------------------------- predictions


class Prediction(NamedTuple):
    """A row of the `predictions_table`."""

    prediction: str
    says: str
    verdict: str
    numbers: str


# Predictions about every teacher or set-up, which one that disagrees breaks. The others are about
# all of them together. Those about teachers wait for these runs, the others for students too.
OF_EACH, OF_TEACHERS = ("P-b", "P-c", "P-d", "P-f"), ("P-a", "P-b", "P-d", "P-f")


def predictions_table(store: Store) -> pd.DataFrame:
    """P-a to P-f: prediction, what it says, verdict (kept, broken, open), and the numbers that
    decide.
    """
    teachers = teachers_table(theory_table(store))
    known = teachers[(teachers["source"] != "earlier") & teachers["confidence"].notna()]
    found = [
        _p_a(known),
        _p_b(known),
        _p_c(known, verdicts_table(store), capacity_table(store)),
        _p_d(known),
        *_p_e(rivals_table(store)),
        _p_f(teachers),
    ]
    whole = _whole(store)
    return pd.DataFrame([row._replace(verdict=_settled(row, whole)) for row in found])


def _whole(store: Store) -> dict[str, bool]:
    """Whether all runs of each table that decides a prediction are done."""
    return {
        table: all(map(store.done, plan.runs_of(store.profile, table, store)))
        for table in ("theory", "regimes", "regime_gains")
    }


def _settled(row: Prediction, whole: dict[str, bool]) -> str:
    """The verdict of a prediction. It is open while runs that decide it are missing."""
    if row.verdict == BROKEN and row.prediction in OF_EACH:
        return BROKEN
    known = whole["theory"] if row.prediction in OF_TEACHERS else all(whole.values())
    return row.verdict if known else OPEN


def _decided(kept: Sequence[bool]) -> str:
    return OPEN if not kept else KEPT if all(kept) else BROKEN


def _p_a(teachers: pd.DataFrame) -> Prediction:
    values = {
        name: spearman(part["confidence"], part["pick_error"])
        for name, part in [("all", teachers), *teachers.groupby("dataset")]
        if len(part) > 2
    }
    numbers = "; ".join(
        f"{name}: {v.value:+.2f} (p = {v.p:.2g}, {v.n} teachers)" for name, v in values.items()
    )
    says = "the pick's teacher error rises with the teacher's confidence"
    return Prediction("P-a", says, _decided([v.value > 0 for v in values.values()]), numbers)


def _each(name: str, says: str, values: pd.Series, right: pd.Series) -> Prediction:
    """A prediction on each teacher: its Spearman, and whether that is as predicted."""
    if values.empty:
        return Prediction(name, says, OPEN, "no such teacher yet")
    numbers = (
        f"{right.sum()} of {len(values)} teachers as predicted; Spearman {values.min():+.2f} to "
        f"{values.max():+.2f}, median {values.median():+.2f}"
    )
    return Prediction(name, says, _decided(list(right)), numbers)


def _p_b(teachers: pd.DataFrame) -> Prediction:
    rows = teachers[(teachers["kind"] == "confident") & teachers["valley"].notna()]
    says = "a confident teacher's score falls with the teacher's error, up to the valley"
    right = (rows["valley"] < 0) & (rows["valley_p"] < LEVEL)
    return _each("P-b", says, rows["valley"], right)


def _p_c(teachers: pd.DataFrame, verdicts: pd.DataFrame, capacity: pd.DataFrame) -> Prediction:
    gains = {} if capacity.empty else capacity.set_index(["dataset", "model"])["gain"].to_dict()
    chosen = (teachers["source"] == "regime") & (teachers["kind"] == "confident")
    confident = teachers[chosen].set_index("teacher")
    kept, lines = [], []
    for row in verdicts.itertuples():
        if row.regime not in confident.index or not row.agreement >= AGREEMENT:
            continue
        gain = gains.get(tuple(confident.loc[row.regime, ["dataset", "model"]]))
        if gain is not None:
            kept.append((row.plain < 0) == (gain > 0))
            lines.append(
                f"{row.regime}: full precision gains {gain:+.2f} points, Spearman without CutMix "
                f"{row.plain:+.2f}"
            )
    says = "with a confident teacher, the score agrees with students where the network kind gains"
    numbers = "; ".join(lines) or "no set-up has all that decides"
    return Prediction("P-c", says, _decided(kept), numbers)


def _p_d(teachers: pd.DataFrame) -> Prediction:
    rows = teachers[(teachers["kind"] == "soft") & teachers["mild"].notna()]
    right = (rows["mild"] > 0) & (rows["mild_p"] < LEVEL)
    return _each("P-d", "a soft teacher's score prefers the mildest", rows["mild"], right)


def _p_e(rivals: pd.DataFrame) -> list[Prediction]:
    told = rivals[rivals["tells"].astype(bool)]
    return [
        _better(f"P-e{number}", name, told)
        for number, name in enumerate((CALIBRATED, HELD_OUT, RELATIVE, HALVING), start=1)
    ]


def _better(prediction: str, name: str, told: pd.DataFrame) -> Prediction:
    """Whether a rival is better than the score: in mean regret, and in most set-ups' Spearman."""
    says = f"{name} is better than the score"
    if name not in set(told.get("rival", ())):
        return Prediction(prediction, says, OPEN, "no set-up can tell yet")
    rival, score = (told[told["rival"] == each].set_index("regime") for each in (name, SCORE))
    score = score.loc[rival.index]
    regrets = rival["regret"].mean(), score["regret"].mean()
    lower = int((rival["spearman"] < score["spearman"]).sum())
    kept = regrets[0] < regrets[1] and (name == HALVING or 2 * lower > len(rival))
    numbers = (
        f"mean regret {regrets[0]:.2f} against {regrets[1]:.2f} points, {len(rival)} set-ups; "
    )
    if name == HALVING:
        numbers += f"costs {int(rival['student_epochs'].mean())} student epochs"
    else:
        numbers += f"lower Spearman in {lower}"
    return Prediction(prediction, says, KEPT if kept else BROKEN, numbers)


def _p_f(teachers: pd.DataFrame) -> Prediction:
    says = f"the formula ranks as the score: Spearman at least {FORMULA}"
    return _each("P-f", says, teachers["formula"], teachers["formula"] >= FORMULA)
