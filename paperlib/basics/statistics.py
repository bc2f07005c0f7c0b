"""Agreement of a ranking with the accuracies: rank correlations with exact p-values, and regret."""

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from scipy import stats

# The exact distribution is computed up to this many states: 16 values without ties.
EXACT_STATES = 2**16
RANDOM_PERMUTATIONS = 100_000


@dataclass(frozen=True)
class Correlation:
    """A rank correlation.

    value  in -1 .. 1, NaN if one side is constant. p  two-sided. n  points. exact  whether p counts
    all permutations.
    """

    value: float
    p: float
    n: int
    exact: bool


def _check(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        shapes = f"{x.shape} and {y.shape}"
        raise ValueError(f"two equally long lists of at least 2 numbers expected, got {shapes}")
    if not np.isfinite([x, y]).all():
        raise ValueError(f"numbers to correlate must be finite, got {x} and {y}")
    return x, y


def rho(x, y) -> float:
    """Spearman's rho: Pearson's correlation of ranks, NaN if one side is constant. Ties share the
    mean of their ranks.

    x, y  (n,) numbers. Raises ValueError for fewer than two points or a number that is not finite.

    >>> rho([1, 2, 3, 4], [4, 3, 2, 1])
    -1.0
    """
    a, b = map(stats.rankdata, _check(x, y))
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1))


def spearman(x, y) -> Correlation:
    """`rho` with its permutation p-value, which takes longer.

    >>> spearman([1, 2, 3, 4], [1, 2, 3, 4])
    Correlation(value=1.0, p=0.08333333333333333, n=4, exact=True)
    """
    value, n = rho(x, y), len(x)
    if np.isnan(value):
        return Correlation(value, float("nan"), n, True)
    # Twice the mid-ranks are integers. Moved and scaled to the smallest ones, so is the sum of
    # products; its mean over all orders is `centre`.
    a, b = (np.rint(2 * stats.rankdata(side)).astype(int) for side in (x, y))
    a, b = ((side - side.min()) // np.gcd.reduce(side - side.min()) for side in (a, b))
    # Rho is symmetric: the orders of the side with more ties are fewer to count.
    a, b = sorted((a, b), key=_states, reverse=True)
    p, exact = _p_value("spearman", a, b, int(a @ b), a.sum() * b.sum() / n)
    return Correlation(value, p, n, exact)


def spearman_within(x, y, strata) -> Correlation:
    """Spearman's rho within strata, with the exact p-value over all orders that exchange y within a
    stratum only.

    x, y, strata  (n,) numbers, numbers, labels; at most 16 points a stratum. value  correlation of
    ranks taken within each stratum and centred there: the mean of the strata's rho if those are
    equally large and without ties. Raises ValueError as `spearman` does, and for a larger stratum.

    # 1 and -1
    >>> spearman_within([1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 8, 7], [0, 0, 0, 1, 1, 1]).value
    0.0
    """
    (x, y), strata = _check(x, y), np.asarray(strata)
    products, squares_x, squares_y, low, ways = 0.0, 0.0, 0.0, 0.0, np.ones(1)
    for stratum in np.unique(strata):
        a, b = (np.rint(2 * stats.rankdata(side[strata == stratum])).astype(int) for side in (x, y))
        if len(a) > 16:
            raise ValueError(f"a stratum may have 16 points, {stratum!r} has {len(a)}")
        products += (a - a.mean()) @ (b - b.mean())
        squares_x += len(a) * a.var()
        squares_y += len(b) * b.var()
        totals, each = _products(_sorted(a), _sorted(b))
        low += totals[0] - a.sum() * b.mean()  # totals as distances from their mean
        ways = np.convolve(ways, each)
    if squares_x * squares_y == 0:
        return Correlation(float("nan"), float("nan"), len(x), True)
    far = np.abs(low + np.arange(len(ways))) >= abs(products) - 1e-6
    value, p = products / np.sqrt(squares_x * squares_y), ways[far].sum() / ways.sum()
    return Correlation(float(value), float(p), len(x), True)


def kendall(x, y) -> Correlation:
    """Kendall's tau-b with its permutation p-value; see `spearman`.

    >>> kendall([1, 2, 3, 4], [1, 2, 4, 3]).value
    0.6666666666666666
    """
    x, y = _check(x, y)
    if len(set(x)) < len(x):
        x, y = y, x  # tau is symmetric; the exact count wants no ties on the first side
    sign_x, sign_y = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    scale = np.sqrt((sign_x**2).sum() * (sign_y**2).sum())
    if scale == 0:
        return Correlation(float("nan"), float("nan"), len(x), True)
    total = int((sign_x * sign_y).sum()) // 2
    a, b = (np.searchsorted(np.unique(v), v) for v in (x, y))
    p, exact = _p_value("kendall", a, b, total, 0.0)
    return Correlation(float(2 * total / scale), p, len(x), exact)


def _states(b: np.ndarray) -> float:
    """How many states the exact count over the orders of b has."""
    return np.prod(np.unique(b, return_counts=True)[1] + 1.0)


def _p_value(
    kind: str, a: np.ndarray, b: np.ndarray, observed: int, centre: float
) -> tuple[float, bool]:
    """P(|T - centre| >= |observed - centre|) over all orders of b, for integers a and b.

    T is the sum of products ("spearman") or concordant minus discordant pairs ("kendall"). Exact
    where that is feasible, else by random permutations with the (k + 1) / (m + 1) estimate of
    Phipson & Smyth (2010), valid at any m.
    """
    distance = abs(observed - centre) - 1e-9
    if _states(b) <= EXACT_STATES and (kind == "spearman" or len(set(a.tolist())) == len(a)):
        a, b = _sorted(a), _sorted(b)
        totals, ways = _products(a, b) if kind == "spearman" else _pairs(b)
        return float(ways[np.abs(totals - centre) >= distance].sum() / ways.sum()), True
    rng, hits = np.random.default_rng(0), 0
    sign = np.sign(a[:, None] - a[None, :])
    for _ in range(RANDOM_PERMUTATIONS // 1000):
        permuted = rng.permuted(np.tile(b, (1000, 1)), axis=1)
        if kind == "spearman":
            values = permuted @ a
        else:
            values = (np.sign(permuted[:, :, None] - permuted[:, None, :]) * sign).sum((1, 2)) / 2
        hits += int((np.abs(values - centre) >= distance).sum())
    return (hits + 1) / (RANDOM_PERMUTATIONS + 1), False


def _sorted(values: np.ndarray) -> tuple[int, ...]:
    return tuple(sorted(values.tolist()))


@lru_cache(maxsize=1024)
def _products(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All sums of products of a with the orders of b, and in how many orders each comes.

    A state of half the places counts, for each distinct value of b, how many are there. The other
    half has the rest, so the sums of the whole are those of both, as in a product of polynomials.
    Rankings of the same candidates share this: it depends on the values alone.
    """
    places, middle = np.array(a), len(a) // 2
    values, counts = np.unique(b, return_counts=True)
    first, low = _half(places[:middle] - places[middle], values, counts)
    second, least = _half(places[middle:] - places[middle], values, counts)
    rest = second[::-1]  # the codes of what is left descend as those of the first ascend
    ways = np.zeros(first.shape[1] + rest.shape[1] - 1)
    for start in range(0, first.shape[1], 256):  # of many totals, not all products at a time
        for k, row in enumerate(first[:, start : start + 256].T @ rest, start):
            ways[k : k + len(row)] += row
    return places[middle] * sum(b) + low + least + np.arange(len(ways)), ways


def _half(steps: np.ndarray, values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, int]:
    """The states (S) of so many places, in the order of their codes, and for each the numbers of
    ways (S, R) to sums low, low + 1, ...; and low.

    steps  what a value at each place is multiplied by. values, counts  of b, each (V,).
    """
    unit = np.cumprod([1, *(counts[:-1] + 1)])
    states, ways, low = np.zeros((1, len(values)), int), np.ones((1, 1)), 0
    for step in sorted(steps, key=abs):
        sums = step * values
        moves = [np.flatnonzero(states[:, k] < counts[k]) for k in range(len(counts))]
        codes = [states[free] @ unit + unit[k] for k, free in enumerate(moves)]
        found = np.unique(np.concatenate(codes))
        longer = np.zeros((len(found), ways.shape[1] + np.ptp(sums)))
        for free, code, start in zip(moves, codes, sums - sums.min(), strict=True):
            rows = np.searchsorted(found, code)
            for part in range(0, len(free), 128):  # as many as a cache holds
                there = rows[part : part + 128], slice(start, start + ways.shape[1])
                longer[there] += ways[free[part : part + 128]]
        used = np.flatnonzero(longer.any(0))
        ways, low = longer[:, used[0] : used[-1] + 1], low + sums.min() + used[0]
        states = found[:, None] // unit % (counts + 1)
    return ways, low


@lru_cache(maxsize=1024)
def _pairs(b: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All differences of concordant and discordant pairs of distinct numbers with the orders of b,
    and in how many orders each comes.

    The number of orders by discordant pairs is Gauss's multinomial coefficient in q: for each
    distinct value the product of (1 - q^(before + k)) / (1 - q^k) over its k-th copy.
    """
    ways, before = np.ones(1, object), 0  # integers without a bound
    for count in np.unique(b, return_counts=True)[1]:
        for k in range(1, count + 1):
            more = np.zeros(len(ways) + before + k, object)
            more[: len(ways)] = ways
            more[before + k :] -= ways
            for start in range(k):
                more[start::k] = more[start::k].cumsum()
            ways = more[: len(ways) + before]
        before += count
    return len(ways) - 1 - 2 * np.arange(len(ways)), ways.astype(float)


def regret(metric, accuracy) -> float:
    """Accuracy points lost by taking the candidate with the lowest metric instead of the most
    accurate one; at least 0.

    Candidates that share the lowest metric are taken with equal chance: the mean over them.

    >>> regret([0.3, 0.1, 0.2], [90.0, 88.0, 91.5]), regret([0, 0, 1], [90.0, 88.0, 91.5])
    (3.5, 2.5)
    """
    metric, accuracy = _check(metric, accuracy)
    return float(accuracy.max() - accuracy[metric == metric.min()].mean())


def t_critical(degrees: int) -> float:
    """What a t statistic exceeds by chance in one of twenty cases, for so many degrees of freedom;
    infinite for none. Raises ValueError for a negative number.

    >>> round(t_critical(2), 2), t_critical(0)
    (2.92, inf)
    """
    if degrees < 0:
        raise ValueError(f"degrees of freedom must be at least 0, got {degrees}")
    return float(stats.t.ppf(0.95, degrees)) if degrees else float("inf")


def direction(difference: float, error: float, n: int) -> int:
    """1 or -1 if the mean of n values, with its standard error, is above or below 0 by more than
    chance gives in one of twenty cases (t test, one-sided); else 0, as for a single value.

    >>> direction(2.0, 0.1, 3), direction(-2.0, 0.1, 3), direction(0.1, 0.1, 3)
    (1, -1, 0)
    >>> direction(5.0, 0.0, 1)
    0
    """
    if n < 2 or not abs(difference) > t_critical(n - 1) * error:
        return 0
    return 1 if difference > 0 else -1


def sign_test(right: int, n: int) -> float:
    """Two-sided exact p-value of `right` successes in n fair coin tosses; 1 for n = 0.

    >>> sign_test(7, 7), sign_test(1, 2)
    (0.015625, 1.0)
    """
    if not 0 <= right <= n:
        raise ValueError(f"right must lie in 0 .. {n}, got {right}")
    tail = sum(comb(n, k) for k in range(min(right, n - right) + 1)) / 2**n
    return min(1.0, 2 * tail)
