"""Attention blocks, and the trees of experts: table and figure. No torch here."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, setup_facts, students_row
from paperlib.reporting.style import styled
from paperlib.study.gains import result_of
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..setups import FULL_BITS, tried
from ..verdicts import LEVELS, told
from .study import experts, students

STUDENT, EXPERTS = "student", "experts"
Routes = Sequence[Sequence[Sequence[float]]]  # of each level, a row a child, a column a parent


def tree(routes: Routes) -> np.ndarray:
    """(levels, classes): the expert of each level that a class comes from, if every node has its
    strongest parent alone.

    >>> tree([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [[1, 0, 0], [0, 0.7, 0.3], [0, 0.3, 0.7]]])
    array([[0, 1, 0],
           [0, 1, 2]])
    """
    found = [np.argmax(routes[-1], 1)]
    for shares in reversed(routes[:-1]):
        found.insert(0, np.argmax(shares, 1)[found[0]])
    return np.array(found)


def shared(routes: Routes) -> np.ndarray:
    """(classes, classes): the part of the way that two classes share, sum_e r_ae r_be of the
    experts of a level, mean over levels.

    >>> shared([[[1, 0], [0, 1]], [[1, 0], [1, 0], [0.5, 0.5]]])[0].tolist()
    [1.0, 1.0, 0.5]
    """
    reach, found = np.eye(len(routes[-1])), []
    for shares in reversed(routes):
        reach = reach @ np.asarray(shares)
        found.append(reach @ reach.T)
    return np.mean(found, 0)


def agreement(first: Sequence[int], second: Sequence[int]) -> float:
    """The adjusted Rand index of two groupings (Hubert & Arabie, 1985): 1 for equal ones, about 0
    for those that have nothing to do with each other.

    >>> agreement([0, 0, 1, 1], [5, 5, 3, 3]), round(agreement([0, 0, 1, 1], [0, 1, 0, 1]), 4)
    (1.0, -0.5)
    """
    table = pd.crosstab(np.asarray(first), np.asarray(second)).to_numpy()
    both, left, right, every = (
        float((n * (n - 1)).sum()) for n in (table, table.sum(1), table.sum(0), table.sum())
    )
    expected, most = left * right / every, (left + right) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def alike(result: dict[str, Any]) -> float:
    """Spearman's correlation, over pairs of classes, of the teacher's similarity with `shared`."""
    ways, similar = shared(result["routes"]), np.array(result["similarity"])
    pairs = np.triu_indices(len(ways), 1)
    return float(stats.spearmanr(ways[pairs], similar[pairs]).statistic)


def kept(result: dict[str, Any]) -> float:
    """The share of nodes whose strongest parent is that of the initial routes."""
    pairs = zip(result["routes"], result["start"], strict=True)
    return float(np.mean(np.concatenate([np.argmax(a, 1) == np.argmax(b, 1) for a, b in pairs])))


def by_chance(routes: Routes) -> float:
    """What `kept` would be if parents were drawn anew.

    >>> by_chance([[[1, 0]], [[0, 0, 0, 1]]])
    0.375
    """
    return sum(len(row) ** -1 for level in routes for row in level) / sum(map(len, routes))


def _mean_agreement(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Of the classes' grouping by the last level of two trees."""
    return float(np.mean([agreement(a[-1], b[-1]) for a, b in pairs] or [np.nan]))


def _results(runs: Sequence[Any], store: Store) -> dict[int, dict[str, Any]]:
    return {run.seed: found for run in runs if (found := result_of(run, store))}


def _change(ours: dict[int, float], theirs: dict[int, float]) -> dict[str, Any]:
    """Mean difference within seeds, its standard error and verdict."""
    change = (pd.Series(ours, dtype=float) - pd.Series(theirs, dtype=float)).dropna()
    verdict_ = told(change.mean(), change.sem(), len(change), LEVELS) if len(change) else ""
    return {"change": change.mean(), "change_se": change.sem(), "entropy_is": verdict_}


def _entropies(found: dict[int, dict[str, Any]]) -> dict[int, float]:
    """Seed -> entropy after the last epoch."""
    return {seed: each["curve"][-1].get("entropy", np.nan) for seed, each in found.items()}


def _tree_facts(
    found: dict[int, dict[str, Any]], by_labels: dict[int, dict[str, Any]]
) -> dict[str, float]:
    trees, start, theirs = (
        {seed: tree(each[name]) for seed, each in part.items()}
        for part, name in ((found, "routes"), (found, "start"), (by_labels, "routes"))
    )
    similar, of_ce = (
        pd.Series({seed: alike(each) for seed, each in part.items()}) for part in (found, by_labels)
    )
    change = (similar - of_ce).dropna()
    return {
        "start_entropy": np.mean([each["start_entropy"] for each in found.values()]),
        "tree_accuracy": np.mean([each["tree_accuracy"] for each in found.values()]),
        "alike": similar.mean(),
        "alike_se": similar.sem(),
        "alike_change": change.mean(),
        "alike_change_se": change.sem(),
        "kept": np.mean([kept(each) for each in found.values()]),
        "between_seeds": _mean_agreement(combinations(trees.values(), 2)),
        "with_start": _mean_agreement((trees[seed], start[seed]) for seed in trees),
        "with_ce": _mean_agreement((trees[k], theirs[k]) for k in trees if k in theirs),
    }


def kdexplainer_table(store: Store) -> pd.DataFrame:
    """One row an arm of each part.

    difference  of the accuracy, in points within seeds: of students with blocks to the same loss
    without, of the others to plain KD; of experts to CE. entropy  of attention or routes after the
    last epoch, over its maximum; change  to CE of the same part, of blocks with other options to
    "kd + blocks"; entropy_is  its verdict. between  see `method.attention_facts`. start_entropy  of
    the untrained routes at the last temperature. tree_accuracy  with the strongest parents alone.
    alike, kept  see these functions; alike_change  to CE. between_seeds, with_start, with_ce
    agreement of the classes' last experts between seeds, with the initial routes', with CE's of the
    same seed.
    """
    rows: list[dict[str, Any]] = []
    plain, mixtures = students(store.profile), experts(store.profile)
    for arm, runs in plain.items():
        reference = plain["ce" if arm.startswith("ce +") else "kd"]
        facts = setup_facts(tried(store.profile)) | {"kind": STUDENT, "arm": arm}
        for row in students_row(facts, runs, reference, store):
            usual = "kd + blocks" if arm.startswith("kd + blocks,") else "ce + blocks"
            found, theirs = _results(runs, store), _results(plain[usual], store)
            own = _entropies(found)
            between = np.mean([each["curve"][-1].get("between", np.nan) for each in found.values()])
            row |= {"entropy": np.mean([*own.values()]), "between": between}
            rows.append(row | _change(own, _entropies(theirs)))
    for arm, runs in mixtures.items():
        facts = setup_facts(tried(store.profile)) | {"bits": FULL_BITS, "kind": EXPERTS, "arm": arm}
        for row in students_row(facts, runs, mixtures["ce"], store):
            found, theirs = _results(runs, store), _results(mixtures["ce"], store)
            own = _entropies(found)
            row |= {"entropy": np.mean([*own.values()]), **_change(own, _entropies(theirs))}
            rows.append(row | _tree_facts(found, theirs))
    return pd.DataFrame(rows)


def headline(table: pd.DataFrame) -> str:
    """What came out, of students and of experts."""

    def entropy(row: Any) -> str:
        found = f"entropy {row.entropy:.3f} of its maximum"
        other = "CE" if "," not in row.arm else "the usual blocks"
        change = f", {row.change:+.4f} ± {row.change_se:.4f} to {other} ({row.entropy_is})"
        return found if row.arm.startswith("ce") else found + change

    parts = []
    for row in table.itertuples():
        found = told(row.difference, row.difference_se, row.n, LEVELS)
        points = f"{row.difference:+.2f} ± {row.difference_se:.2f} points"
        if row.kind == STUDENT and "blocks" in row.arm:
            parts.append(f"{row.arm}: {points} to the same without ({found}), {entropy(row)}")
        elif row.kind == EXPERTS and row.arm == "kd":
            similar = told(row.alike, row.alike_se, row.n, LEVELS)
            parts.append(
                f"experts under KD: {points} to CE ({found}), {entropy(row)}; branches of similar "
                f"classes: rho {row.alike:+.2f} ± {row.alike_se:.2f} ({similar}); agreement of "
                f"trees {row.between_seeds:.2f} between seeds"
            )
    return ". ".join(parts)


def _places(routes: Routes) -> list[dict[int, float]]:
    """Where a tree's nodes are drawn, level by level, the classes last: those without a class are
    left out, and branches do not cross.
    """
    found = tree(routes)
    order = sorted(range(found.shape[1]), key=lambda c: (*found[:, c], c))
    classes = {c: float(k) for k, c in enumerate(order)}
    levels = [
        {int(e): float(np.mean([classes[c] for c in np.flatnonzero(row == e)])) for e in set(row)}
        for row in found
    ]
    return [*levels, classes]


def draw_tree(axis: plt.Axes, result: dict[str, Any], names: Sequence[str]) -> None:
    """The tree of a mixture's strongest parents, classes below. Blue are connections that were the
    strongest from the start; thickness is what a node takes of that parent.
    """
    places = _places(result["routes"])
    for level, shares in enumerate(result["routes"]):
        for child, x in places[level + 1].items():
            parent = int(np.argmax(shares[child]))
            kept = parent == int(np.argmax(result["start"][level][child]))
            line = {"color": "C0" if kept else "C1", "lw": 0.5 + 2.5 * shares[child][parent]}
            axis.plot([places[level][parent], x], [-level, -level - 1], zorder=1, **line)
    for level, nodes in enumerate(places[:-1]):
        axis.plot([*nodes.values()], [-level] * len(nodes), "o", color="0.3", ms=6)
    for c, x in places[-1].items():
        axis.text(x, -len(places) + 0.9, names[c], ha="center", va="top")
    axis.set_ylim(-len(places) + 0.5, 0.3)
    axis.axis("off")


@styled
def kdexplainer_figure(store: Store) -> Figure | None:
    """The trees of the experts: a row an arm, a column a seed."""
    arms = {arm: _results(runs, store) for arm, runs in experts(store.profile).items()}
    columns = max(map(len, arms.values()), default=0)
    if not columns:
        return None
    figure, axes = plt.subplots(
        len(arms),
        columns,
        figsize=(3.6 * columns, 2.3 * len(arms)),
        squeeze=False,
        layout="constrained",
    )
    for row, (arm, found) in zip(axes, arms.items(), strict=True):
        for axis, (seed, each) in zip(row, found.items(), strict=False):
            draw_tree(axis, each, [str(c) for c in range(len(each["similarity"]))])
            axis.set_title(f"{arm}, seed {seed}")
    return figure


results.TABLES["kdexplainer"] = lambda store, made: kdexplainer_table(store)
results.FIGURES["kdexplainer"] = ("kdexplainer", lambda store, made: kdexplainer_figure(store))
page.CAPTIONS["kdexplainer"] = (
    "Which classes share a branch of the hierarchical mixture of experts. Blue connections were "
    "the strongest from the start."
)
compare.TABLES["kdexplainer"] = compare.Compared(
    kdexplainer_table, (*SETUP, "kind", "arm"), {"accuracy_mean": 5.0}
)
SYSTEMS["kdexplainer"] = System(
    title="KDExplainer",
    paper="Xue, Song, Wang, Chen, Wang & Song, IJCAI 2021, arXiv 2105.04181",
    built="virtual attention blocks with the entropy term, which any network can carry, in low-bit "
    "students; the hierarchical mixture of experts with its tree, under CE, smoothed CE and KD",
    ours="the form of the attention, which is not in the released code; narrower experts without "
    "dropout; the second stage, which trains the tree anew, is left out",
    table="kdexplainer",
    proof="test_related_kdexplainer.py::test_fresh_blocks_are_the_identity",
    headline=headline,
    regime="confident teacher, which the experts under labels alone surpass",
)
