"""Definitions of the score, claims and the page are functions of records."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_report import ACCURACIES, ROOT, WHERE, made_up

from paperlib.reporting import claims, page, report, results
from paperlib.reporting.definitions import DEFINITIONS, POOLS, definitions_figure, definitions_table
from paperlib.study import plan, profiles
from paperlib.study.config import Data
from paperlib.study.store import Store

REVERSED = dict(zip(ACCURACIES, reversed(ACCURACIES.values()), strict=True))


def ranking(**columns):
    """A ranking table of the sixteen with the given columns; the accuracy falls along the list."""
    names = list(profiles.CANDIDATES)
    base = {
        name: np.linspace(0, 1, 16)
        for name in (
            "divergence",
            "cmi",
            "cross_entropy",
            "cmi_released",
            "teacher_stddev",
            "cmi_unmixed",
            "divergence_unmixed",
        )
    }
    fixed = {
        "dataset": "x",
        "model": "y",
        "bits": 2,
        "augmentation": names,
        "accuracy_mean": np.linspace(90, 75, 16),
        "n": 1,
    }
    fixed["profile"] = "quick"
    return pd.DataFrame(fixed | base | columns)


def test_definitions_pick_and_rank_as_written():
    # CMI grows twice as fast as D: what subtracts enough of it turns the order round.
    table = definitions_table(ranking(cmi=np.linspace(0, 2, 16))).set_index(["pool", "definition"])
    assert len(table) == len(POOLS) * len(DEFINITIONS)
    assert (
        table.loc["all 16", "candidates"].eq(16).all()
        and table.loc["7 policies without CutMix", "candidates"].eq(7).all()
    )
    mild, strong = table.loc[("all 16", "D alone")], table.loc[("all 16", "D - CMI")]
    assert (mild["pick"], mild["regret"], mild["spearman"]) == ("none", 0, pytest.approx(-1))
    assert (strong["pick"], strong["regret"], strong["spearman"]) == (
        "autoaugment_svhn+cutmix",
        15,
        pytest.approx(1),
    )
    assert table.loc[("all 16", "D - 0.25 CMI"), "spearman"] == pytest.approx(
        -1
    )  # 1 - 0.25 * 2 > 0
    places = {name: i + 1 for i, name in enumerate(profiles.CANDIDATES)}
    assert (
        mild["rank_ta_cutmix"] == places["trivialaugment+cutmix"]
        and mild["rank_aai_cutmix"] == places["autoaugment_imagenet+cutmix"]
    )
    assert np.isnan(table.loc[("8 without CutMix", "D alone"), "rank_ta_cutmix"])
    assert table.loc[("7 policies without CutMix", "D alone"), "pick"] == "erasing"
    assert table.loc[("8 with CutMix", "D alone"), "pick"] == "none+cutmix"
    assert len(definitions_figure(table.reset_index()).axes) == 1


def test_a_definition_without_its_metric_is_left_out():
    table = definitions_table(ranking(teacher_stddev=np.nan))
    assert "T. stddev" not in set(table["definition"]) and "D - CMI" in set(table["definition"])


def test_set_ups_of_two_profiles_are_never_pooled(tmp_path):
    both = pd.concat(
        [ranking(), ranking(profile="cpu", divergence=np.linspace(1, 0, 16))], ignore_index=True
    )
    assert [name for name, _ in report.groups(both)] == ["x, y, W2A2, quick", "x, y, W2A2, cpu"]
    signs = definitions_table(both).set_index(["setup", "pool", "definition"])["spearman"]
    assert signs["x, y, W2A2, quick", "all 16", "D alone"] == pytest.approx(-1)
    assert signs["x, y, W2A2, cpu", "all 16", "D alone"] == pytest.approx(1)
    assert [name for name, _ in report.groups(ranking())] == ["x, y, W2A2"]


def with_seconds(store, score, student):
    """The made-up records of a profile again, with processor seconds."""
    (setup,) = plan.setups(store.profile)
    for run, seconds in (
        (setup.teacher, 7.0),
        (setup.score, score),
        *((s, student) for s in setup.students),
    ):
        record = store.load(run)
        content = {name: record[name] for name in ("result", "teacher") if name in record}
        store.save(run, "done", **content, **WHERE | {"cpu_seconds": seconds})


def judged(tmp_path, accuracies, score=10.0, student=20.0):
    store = Store("quick", "results", tmp_path)
    made_up(store, accuracies)
    with_seconds(store, score, student)
    return store, {claim.name: claim for claim in claims.claims([store])}


def test_verdicts_follow_the_records(tmp_path):
    store, found = judged(
        tmp_path / "a", ACCURACIES
    )  # a perfect ranking; T. stddev's pick is the worst
    assert [found[name].verdict for name in ("C1", "C2", "C6")] == [
        "supported",
        "partly",
        "supported",
    ]  # one seed is never clear
    assert (
        found["C1"].records == 18
        and found["C1"].setups == 1
        and "Spearman -1.00" in found["C1"].evidence[0]
    )
    assert "+15.00 points" in found["C2"].evidence[0]
    assert [found[name].verdict for name in ("C3", "C4", "C5", "C7")] == ["not tested"] * 4
    assert claims.cost_table(store).iloc[0]["share_of_student"] == 0.5
    _, found = judged(tmp_path / "b", REVERSED, score=500.0, student=20.0)
    assert [found[name].verdict for name in ("C1", "C2", "C6")] == ["not supported"] * 3
    _, found = judged(
        tmp_path / "c", ACCURACIES, score=100.0
    )  # cheaper than the sweep, dearer than a student
    assert found["C6"].verdict == "partly"
    flat = {name: 80.0 + (i % 2) - 0.01 * i for i, name in enumerate(ACCURACIES)}
    _, found = judged(tmp_path / "d", flat)
    assert (
        found["C1"].verdict == "partly" and "exact p = 0." in found["C1"].evidence[0]
    )  # the sign, not the strength


@pytest.mark.parametrize(
    "others, turned, expected",
    [
        ([("cifar10", "resnet8", 3), ("digits", "vgg8", 2)], False, "supported"),
        ([("cifar10", "resnet8", 2), ("digits", "vgg8", 2)], False, "partly"),  # at one precision
        ([("cifar10", "resnet8", 3), ("digits", "vgg8", 2)], True, "not supported"),
        ([("cifar10", "resnet8", 3), ("cifar100", "resnet8", 2)], False, "not tested"),
        (
            [("cifar10", "vgg8", 3), ("cifar100", "resnet20", 2)],
            False,
            "not tested",
        ),  # two of each, and nothing to compare
    ],
)
def test_c5_is_judged_where_networks_and_data_sets_cross(
    tmp_path, monkeypatch, others, turned, expected
):
    store, first = Store("quick", "results", tmp_path), plan.setups("quick")[0]
    found = [
        first,
        *(replace(first, data=Data(data), model=model, bits=bits) for data, model, bits in others),
    ]
    for setup in found:
        monkeypatch.setitem(profiles.PROFILES, "quick", (setup,))
        made_up(store, REVERSED if turned and setup is not first else ACCURACIES)
        with_seconds(store, 10.0, 20.0)
    monkeypatch.setitem(profiles.PROFILES, "quick", tuple(found))
    (claim,) = (claim for claim in claims.claims([store]) if claim.name == "C5")
    assert claim.verdict == expected and claim.setups == 3 and claim.records == 3 * 18
    data, model, bits = others[-1]
    assert (
        claim.evidence[-1]
        == f"{data}, {model}, W{bits}A{bits}: Spearman {'+' if turned else '-'}1.00, 1 seed(s)"
    )


def test_an_order_that_cutmix_alone_explains_is_not_clear(tmp_path):
    """All with CutMix are worse, and within either half the order is as good as any."""
    order = dict(
        zip(
            profiles.CANDIDATES, [*[3, 6, 1, 4, 7, 2, 5, 0], *[3, 6, 1, 4, 7, 2, 5, 0]], strict=True
        )
    )
    _, found = judged(
        tmp_path,
        {name: value + (0.0 if "cutmix" in name else 50.0) for name, value in order.items()},
    )
    assert (
        found["C1"].verdict == "partly"
        and "within CutMix and without -0.24 (p = 0.4)" in found["C1"].evidence[0]
    )
    assert (
        "exact p = 0.00" in found["C1"].evidence[0]
        and "CutMix or not (no teacher) -0.87" in found["C1"].evidence[0]
    )


@pytest.mark.parametrize(
    "gains, expected",
    [((15, 14, 16), "supported"), ((15, -1, 1), "partly"), ((-1, -2, 1), "not supported")],
)
def test_c2_asks_for_a_gain_beyond_the_spread_of_seeds(tmp_path, monkeypatch, gains, expected):
    store, first = Store("quick", "results", tmp_path), plan.setups("quick")[0]
    made_up(store, ACCURACIES)
    setup = replace(first, seeds=(0, 1, 2))
    facts = {"key": setup.teacher.key, "accuracy": 98.0, "weights_sha256": "0"}
    for run in setup.students:  # the score's pick is the first, that of minimal variance the last
        accuracy = 70.0 + (gains[run.seed] if run.augmentation == profiles.CANDIDATES[0] else 0)
        store.save(run, "done", result={"accuracy": accuracy}, teacher=facts, **WHERE)
    monkeypatch.setitem(profiles.PROFILES, "quick", (setup,))
    (found,) = (claim for claim in claims.claims([store]) if claim.name == "C2")
    assert found.verdict == expected and found.records == 2 + 48
    error = np.std(gains, ddof=1) / 3**0.5
    assert (
        f"{np.mean(gains):+.2f} points (standard error {error:.2f}, 3 seeds)" in found.evidence[0]
    )


@pytest.mark.parametrize(
    "kind, clock, share", [("cpu", "processor seconds", 0.5), ("cuda", "seconds", 4.0)]
)
def test_costs_are_told_by_the_clock_of_the_device(tmp_path, kind, clock, share):
    store, setup = Store("quick", "results", tmp_path), plan.setups("quick")[0]
    made_up(store, ACCURACIES)
    where = {"environment": WHERE["environment"] | {"device_type": kind}}
    for run, seconds, processor in (
        (setup.score, 40.0, 10.0),
        *((run, 10.0, 20.0) for run in setup.students),
    ):
        content = {
            name: value for name, value in store.load(run).items() if name in ("result", "teacher")
        }
        store.save(run, "done", **content, **where, seconds=seconds, cpu_seconds=processor)
    (row,) = claims.cost_table(store).to_dict("records")
    assert (row["clock"], row["share_of_student"]) == (clock, share) and row["sweep"] == 16 * row[
        "student"
    ]


def test_nothing_is_claimed_without_records(tmp_path):
    stores = [Store("quick", "results", tmp_path)]
    found = claims.claims(stores)
    assert {claim.verdict for claim in found} == {"not tested"} and sum(
        claim.records for claim in found
    ) == 0
    assert "| C6 |" in claims.markdown(found, stores)


def test_the_page_stands_alone_and_says_what_the_records_say(tmp_path):
    store, found = judged(tmp_path, ACCURACIES)
    results.write(store)
    text = page.render([store, Store("cpu", "results", tmp_path)], list(found.values()))
    assert re.findall(r'(?:src|href)="(?!data:|#|https://arxiv)', text) == []  # nothing is fetched
    assert (
        text.count("data:image/png;base64") == 4
        and "Profile quick" in text
        and "Profile cpu" not in text
    )
    for claim in found.values():
        assert f">{claim.verdict}</span>" in text
    hardware = page.hardware_table([store])
    assert (
        hardware["records"].sum() == 18
        and hardware.set_index("kind").loc["student", "cpu_seconds"] == 16 * 20
    )


def test_the_committed_claims_are_what_the_records_give():
    stores = [Store(profile, "results", ROOT) for profile in profiles.PROFILES]
    found = claims.claims(stores)
    assert (ROOT / "results/CLAIMS.md").read_text() == claims.markdown(found, stores)
    seeds = sum(len(plan.methods(profile).seeds) for profile in ("quick", "cpu"))
    distinct = len(plan.QUANTIZERS) + len(plan.LOSSES) - 1  # EWGS + KD is in both lists
    assert (found[-1].setups, found[-1].records) == (2, seeds * distinct)
    shown = re.findall(r"\| (C\d) \|.*?\| \*\*([a-z ]+)\*\* \|", (ROOT / "README.md").read_text())
    assert shown == [(claim.name, claim.verdict) for claim in found]
    assert report.groups(report.ranking_table(stores[0]))
