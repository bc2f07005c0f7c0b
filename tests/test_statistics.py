"""Rank correlations against scipy's values and against brute force over all permutations."""

from itertools import permutations, product

import numpy as np
import pytest
import scipy.stats

from paperlib.basics.statistics import (
    direction,
    kendall,
    regret,
    sign_test,
    spearman,
    spearman_within,
    t_critical,
)

PAIRS = {
    "no ties": ([3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.6], [2.0, 7.0, 1.0, 8.0, 2.8, 1.8, 4.0]),
    "ties in y": ([3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.6], [2.0, 7.0, 7.0, 8.0, 2.0, 2.0, 4.0]),
    "perfect": ([1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0]),
}


@pytest.mark.parametrize("x, y", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize(
    "ours, theirs", [(spearman, scipy.stats.spearmanr), (kendall, scipy.stats.kendalltau)]
)
def test_value_and_exact_p_value(ours, theirs, x, y):
    found = ours(x, y)
    assert found.exact
    assert found.value == pytest.approx(theirs(x, y).statistic)
    every = np.array([theirs(x, list(order)).statistic for order in permutations(y)])
    assert found.p == pytest.approx((np.abs(every) >= abs(found.value) - 1e-12).mean())


@pytest.mark.parametrize(
    "y",
    [[2.0, 7.0, 1.0, 8.0, 2.8, 1.8, 4.0], [2.0, 7.0, 7.0, 8.0, 2.0, 2.0, 4.0]],
    ids=["no ties", "ties"],
)
def test_orders_within_strata_by_brute_force(y):
    x, strata = np.array([3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.6]), np.array(list("abababb"))
    parts = [np.flatnonzero(strata == s) for s in "ab"]

    def centred_ranks(values):
        ranks = np.zeros(len(values))
        for part in parts:
            ranks[part] = scipy.stats.rankdata(np.asarray(values)[part])
            ranks[part] -= ranks[part].mean()
        return ranks

    def value(values):
        a, b = centred_ranks(x), centred_ranks(values)
        return a @ b / np.sqrt((a @ a) * (b @ b))

    every = []
    for first, second in product(*(permutations(part) for part in parts)):
        exchanged = np.array(y)
        exchanged[parts[0]], exchanged[parts[1]] = (
            np.array(y)[list(first)],
            np.array(y)[list(second)],
        )
        every.append(value(exchanged))
    found = spearman_within(x, y, strata)
    assert found.exact and found.value == pytest.approx(value(y))
    assert found.p == pytest.approx((np.abs(every) >= abs(found.value) - 1e-9).mean())


def test_one_stratum_is_spearman_and_a_difference_between_strata_is_not_seen():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=9), rng.normal(size=9)
    whole, one = spearman(x, y), spearman_within(x, y, np.zeros(9))
    assert (one.value, one.p) == (pytest.approx(whole.value), pytest.approx(whole.p))
    strata = np.repeat([0, 1], 8)
    apart = (
        np.tile([0.0, 1, 2, 3, 4, 5, 6, 7], 2),
        np.array([3.0, 6, 1, 4, 7, 2, 5, 0, 3, 6, 1, 4, 7, 2, 5, 0]),
    )
    near, far = (
        spearman_within(apart[0] + shift * strata, apart[1] + shift * strata, strata)
        for shift in (0, 100)
    )
    assert (
        near == far
        and near.p > 0.1
        and spearman(apart[0] + 100 * strata, apart[1] + 100 * strata).p < 0.01
    )
    assert np.isnan(
        spearman_within(strata, x[:1].repeat(16) + np.arange(16), strata).value
    )  # constant within both
    with pytest.raises(ValueError, match="17"):
        spearman_within(np.arange(17), np.arange(17), np.zeros(17))


@pytest.mark.parametrize("function", [spearman, kendall])
def test_sixteen_points_are_exact(function):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=16), rng.normal(size=16)
    found = function(x, y)
    assert found.exact
    if function is kendall:
        assert found.p == pytest.approx(scipy.stats.kendalltau(x, y, method="exact").pvalue)
    else:  # the t approximation is good at 16 points and moderate correlations
        assert found.p == pytest.approx(scipy.stats.spearmanr(x, y).pvalue, abs=0.01)
    assert function(x, x).p == pytest.approx(2 / 20922789888000, rel=1e-9)  # 2 of 16! orders


def test_ties_on_both_sides_fall_back_to_random_permutations():
    x, y = [1, 1, 2, 3, 4, 5], [1, 2, 2, 3, 4, 4]
    found = kendall(x, y)
    every = np.array([scipy.stats.kendalltau(x, list(o)).statistic for o in permutations(y)])
    assert not found.exact
    assert found.p == pytest.approx((np.abs(every) >= abs(found.value) - 1e-12).mean(), abs=0.005)


def test_a_side_of_two_values_is_counted_exactly_whatever_the_other_is():
    x, y = np.repeat([0, 1], 10), np.arange(20.0)  # 20! orders of y, 184,756 of x
    found = spearman(x, y)
    assert found.exact and found.p == pytest.approx(2 / 184756) and spearman(y, x) == found


def test_a_constant_side_has_no_correlation():
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]).value)
    assert np.isnan(kendall([1, 2, 3], [4, 4, 4]).p)


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="nan"):
        spearman([1, float("nan")], [1, 2])
    with pytest.raises(ValueError, match=r"\(3,\)"):
        kendall([1, 2, 3], [1, 2])


def test_regret():
    assert regret([1, 2, 3], [70.0, 60.0, 50.0]) == 0
    assert regret([3, 2, 1], [70.0, 60.0, 50.0]) == 20
    assert regret([1, 1, 2], [70.0, 60.0, 80.0]) == 15  # one of the first two, by chance


def test_sign_test_as_scipys_binomial():
    for n in range(1, 12):
        for right in range(n + 1):
            assert sign_test(right, n) == pytest.approx(scipy.stats.binomtest(right, n).pvalue)
    assert sign_test(0, 0) == 1
    with pytest.raises(ValueError, match="3"):
        sign_test(3, 2)


def test_critical_values_of_t():
    """Against the table of Student (1908) as every textbook has it."""
    table = {1: 6.314, 2: 2.920, 3: 2.353, 9: 1.833, 30: 1.697}
    for degrees, value in table.items():
        assert t_critical(degrees) == pytest.approx(value, abs=5e-4)
    with pytest.raises(ValueError, match="-1"):
        t_critical(-1)


def test_direction_is_that_of_scipys_t_test():
    rng = np.random.default_rng(3)
    for n in (2, 3, 10):
        for mean in (-2.0, -0.5, 0.0, 0.5, 2.0):
            values = rng.normal(mean, 1, n)
            p = scipy.stats.ttest_1samp(values, 0, alternative="greater").pvalue
            said = direction(values.mean(), scipy.stats.sem(values), n)
            assert said == int(p < 0.05) - int(p > 0.95)
    assert direction(5.0, 0.0, 1) == direction(float("nan"), 1.0, 3) == direction(0.0, 0.0, 3) == 0
