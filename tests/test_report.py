"""Tables, figures and comparisons are functions of records; none of it needs torch."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from paperlib.reporting import methods, paper, report, results
from paperlib.reporting.compare import (
    ACCURACY_POINTS,
    SCORE_NATS,
    TABLES,
    comparison,
    write_comparison,
)
from paperlib.study import plan, profiles
from paperlib.study.store import Store

ROOT = Path(__file__).parent.parent


WHERE = {"seconds": 2.0, "cpu_seconds": 1.0, "environment": {"device": "a processor", "torch": "2"}}


def made_up(store, accuracies, scores=None):
    """Records of every run of the quick ranking, with the given accuracies and scores by
    candidate.
    """
    (setup,) = plan.setups("quick")
    facts = {"key": setup.teacher.key, "accuracy": 98.0, "weights_sha256": "0"}
    store.save(setup.teacher, "done", result={"accuracy": 98.0, "weights_sha256": "0"}, **WHERE)
    names = profiles.CANDIDATES
    scores = scores or {name: 0.1 * i for i, name in enumerate(names)}
    rows = [
        {
            "rank": i + 1,
            "augmentation": name,
            "score": scores[name],
            "cmi": 0.5,
            "divergence": scores[name] + 0.5,
            "entropy": 1.0 + i,
            "cross_entropy": 1.0 + i,
            "cmi_released": 0.5,
            "score_released": scores[name],
            "score_low": scores[name] - 0.01,
            "score_high": scores[name] + 0.01,
            "images": 10,
            "teacher_stddev": 16.0 - i,
        }
        for i, name in enumerate(names)
    ]
    store.save(setup.score, "done", result={"scores": rows}, teacher=facts, **WHERE)
    for student in setup.students:
        store.save(
            student,
            "done",
            result={"accuracy": accuracies[student.augmentation]},
            teacher=facts,
            **WHERE,
        )
    return setup


ACCURACIES = {name: 90.0 - i for i, name in enumerate(profiles.CANDIDATES)}


def test_ranking_and_agreement_of_made_up_records(tmp_path):
    store = Store("quick", root=tmp_path)
    made_up(store, ACCURACIES)
    table = report.ranking_table(store)
    assert list(table.columns[:11]) == [
        "dataset",
        "model",
        "augmentation",
        "score",
        "cmi",
        "divergence",
        "teacher_stddev",
        "accuracy_mean",
        "accuracy_sd",
        "n",
        "rank",
    ]
    assert table["accuracy_mean"].tolist() == list(ACCURACIES.values()) and (table["n"] == 1).all()
    assert table["accuracy_sd"].isna().all()
    both = report.agreement_table(table)
    agreement, seven = (
        both[both["pool"] == pool].set_index("ranker") for pool in (profiles.ALL_16, profiles.SEVEN)
    )
    assert (seven["pick"] == "erasing").sum() >= 4 and set(seven["candidates"]) == {7}
    assert seven.loc["score D - CMI (ours)", "spearman_p"] == pytest.approx(2 / 5040)
    signs = report.sign_table(pd.concat([both, both])).set_index(["pool", "ranker"])
    assert signs.loc[(profiles.ALL_16, "score D - CMI (ours)")].tolist() == [2, 2, 0.5, 0]
    assert signs.loc[(profiles.ALL_16, "T. stddev (minimal variance)")].tolist() == [0, 2, 0.5, 15]
    assert (profiles.SEVEN, "- CMI alone") not in signs.index  # constant here: nothing to rank by
    ours, least = (
        agreement.loc["score D - CMI (ours)"],
        agreement.loc["T. stddev (minimal variance)"],
    )
    assert (ours["spearman"], ours["kendall"], ours["regret"], ours["pick"]) == (
        pytest.approx(-1),
        pytest.approx(-1),
        0,
        "none",
    )
    assert (least["spearman"], least["regret"]) == (pytest.approx(1), 15)
    assert ours["spearman_p"] == pytest.approx(2 / 20922789888000)
    # Of two-valued rankers the pick is one of many: its accuracy and regret are the means over
    # them.
    flag = agreement.loc["CutMix or not (no teacher)"]
    assert (flag["pick"], flag["pick_accuracy"], flag["regret"]) == (
        "one of 8",
        86.5,
        3.5,
    ) and np.isnan(flag["within"])
    assert ours["within"] == pytest.approx(-1) and ours["within_p"] == pytest.approx(2 / 40320**2)
    assert "CutMix or not (no teacher)" not in seven.index and seven.loc[
        "T. stddev (minimal variance)", "within"
    ] == pytest.approx(1)


def test_seeds_that_agree_leave_room_for_a_ranker(tmp_path, monkeypatch):
    (setup,) = plan.setups("quick")
    three = replace(setup, seeds=(0, 1, 2))
    monkeypatch.setattr(profiles, "setups", lambda profile: (three,))
    store = Store("quick", root=tmp_path)
    made_up(store, ACCURACIES)
    facts = {"key": setup.teacher.key, "accuracy": 98.0, "weights_sha256": "0"}

    def train(order):
        """Seed 0 as ACCURACIES; in the others the candidates take its accuracies in this order."""
        values = list(ACCURACIES.values())
        for run in three.students:
            place = profiles.CANDIDATES.index(run.augmentation)
            store.save(
                run,
                "done",
                result={"accuracy": values[order[place] if run.seed else place]},
                teacher=facts,
                **WHERE,
            )
        return report.seeds_table(store)

    same = train(range(16))
    assert (
        same["pool"].tolist() == ["all 16", "7 policies without CutMix"]
        and same["seeds"].eq(3).all()
    )
    assert same[
        ["between", "reliability", "ceiling", "lowest", "highest"]
    ].to_numpy() == pytest.approx(1)
    assert same[["score_lowest", "score_highest"]].to_numpy() == pytest.approx(
        -1
    )  # the made-up score is right in every seed
    swapped = train([k ^ 1 for k in range(16)]).iloc[
        0
    ]  # neighbours change places: 1 - 6 * 16 / (16 * 255)
    r = (2 * (1 - 96 / 4080) + 1) / 3
    assert swapped["between"] == pytest.approx(r) and swapped["reliability"] == pytest.approx(
        3 * r / (1 + 2 * r)
    )
    assert (swapped["lowest"], swapped["highest"]) == (
        pytest.approx(1 - 96 / 4080),
        pytest.approx(1),
    )
    turned = train(range(15, -1, -1)).iloc[0]
    assert turned["between"] == pytest.approx(-1 / 3) and turned["ceiling"] == 0
    assert (turned["score_lowest"], turned["score_highest"]) == (
        pytest.approx(-1),
        pytest.approx(1),
    )
    store.path(three.students[-1]).unlink()
    assert report.seeds_table(store).empty


def test_methods_are_compared_with_ewgs_and_kd_seed_by_seed(tmp_path, monkeypatch):
    first = plan.methods("quick")
    monkeypatch.setattr(plan, "methods", lambda profile: plan.Methods(first.setup, (0, 1)))
    store, comparison = Store("quick", root=tmp_path), plan.methods("quick")
    facts = {"key": first.setup.teacher.key, "accuracy": 98.0, "weights_sha256": "0"}
    store.save(first.setup.teacher, "done", result={"accuracy": 98.0, "weights_sha256": "0"})
    values = {"ewgs": (80.0, 90.0), "kd": (80.0, 90.0), "lsq": (81.0, 93.0), "crd": (70.0, 70.0)}
    for name, runs in (comparison.quantizers | comparison.losses).items():
        for run, value in zip(runs, values.get(name, (50.0, 60.0)), strict=True):
            store.save(run, "done", result={"accuracy": value}, teacher=facts, seconds=1.0)
    store.path(comparison.losses["at"][1]).unlink()
    store.save(comparison.losses["at"][1], "failed", error=["out of memory"])
    bench = tmp_path / "results/bench/some.json"
    bench.parent.mkdir(parents=True)
    rows = [{"name": "kd", "rounds": [10, 30, 20]}, {"name": "crd", "rounds": [5, 10, 10]}]
    bench.write_text(json.dumps({"suites": {"losses": {"rows": rows}}}))
    table = methods.methods_table(store)
    assert (table["kind"] == "quantizer").sum() == len(plan.QUANTIZERS)
    table = table.set_index("method")
    assert len(table) == len(plan.QUANTIZERS) + len(plan.LOSSES)
    assert table.loc["at", ["n", "accuracy_mean", "difference"]].tolist() == [
        1,
        50,
        -30,
    ]  # the seed that did not fail
    assert (table.loc["lsq", "difference"], table.loc["lsq", "difference_se"]) == (
        pytest.approx(2),
        pytest.approx(1),
    )
    assert (
        table.loc["kd", "difference"] == 0
        and table.loc["crd", "accuracy_mean"] == 70
        and table.loc["crd", "n"] == 2
    )
    assert table.loc["crd", "step_time"] == pytest.approx(2) and np.isnan(
        table.loc["ce", "step_time"]
    )
    losses, quantizers = (
        methods.methods_figure(methods.methods_table(store)).axes[k] for k in (1, 0)
    )
    assert [t.get_text() for t in losses.get_yticklabels()][-1] == "kd"
    assert [t.get_text() for t in quantizers.get_yticklabels()][-1] == "lsq"
    assert methods.methods_table(Store("cpu", root=tmp_path)).empty


def test_the_papers_values_stand_beside_ours_when_someone_has_them(tmp_path):
    store = Store("quick", "results", tmp_path)
    made_up(store, ACCURACIES)
    assert report.ranking_table(store)["paper_accuracy"].isna().all()
    results.write(store)
    assert (store.tables / "ranking.md").read_text().count("not available") == 16
    path = tmp_path / "results/paper.csv"
    header = ",".join(paper.PAPER_COLUMNS) + "\n"
    path.write_text(header + "digits,resnet8,2,ewgs,kd,augmix,91.5,Table 1,5,seen by me\n")
    table = report.ranking_table(store).set_index("augmentation")
    assert (
        table.loc["augmix", "paper_accuracy"] == 91.5 and table["paper_accuracy"].notna().sum() == 1
    )
    results.write(store)
    assert "91.50, seen by me" in (store.tables / "ranking.md").read_text()
    for line, named in (
        ("digits,resnet8,2,ewgs,kd,augmix,91,T,5,me\n" * 2, "augmix"),
        ("digits,resnet8,2,ewgs,kd,none,915,T,5,me\n", "915"),
        ("digits,resnet8,2,ewgs,kd,none,91,T,5,\n", "source"),
        ("digits\n", ""),
    ):
        path.write_text((header if line != "digits\n" else "") + line)
        with pytest.raises(ValueError, match=f"paper.csv.*{named}"):
            report.ranking_table(store)


def test_the_committed_values_of_the_paper_name_where_they_were_read():
    table = paper.paper_table(ROOT)
    assert (
        len(table) > 50
        and table["source"].str.contains("not seen").all()
        and table["page"].isna().all()
    )


def test_a_set_up_without_all_students_has_no_agreement(tmp_path):
    store = Store("quick", root=tmp_path)
    setup = made_up(store, ACCURACIES)
    for student in setup.students[3:5]:
        store.path(student).unlink()
    store.save(setup.students[4], "failed", error=["out of memory"])
    table = report.ranking_table(store)
    assert table["n"].sum() == 14 and table["accuracy_mean"].isna().sum() == 2
    assert report.groups(table) == [] and report.agreement_table(table).empty
    assert report.ranking_table(Store("cpu", root=tmp_path)).empty


def test_a_seed_that_is_not_whole_does_not_count_yet(tmp_path, monkeypatch):
    (setup,) = plan.setups("quick")
    store, three = Store("quick", root=tmp_path), replace(setup, seeds=(0, 1))
    made_up(store, ACCURACIES)
    monkeypatch.setattr(profiles, "setups", lambda profile: (three,))
    facts = {"key": setup.teacher.key, "accuracy": 98.0, "weights_sha256": "0"}
    for run in three.students[16:20]:  # a sweep under way: the second seed of four augmentations
        store.save(run, "done", result={"accuracy": 1.0}, teacher=facts, **WHERE)
    table = report.ranking_table(store)
    assert (table["n"] == 1).all() and table["accuracy_mean"].tolist() == list(ACCURACIES.values())
    store.path(
        three.students[0]
    ).unlink()  # now no seed is whole: what there is is shown, and not compared
    table = report.ranking_table(store)
    assert (
        table.set_index("augmentation").loc["none", "accuracy_mean"] == 1
        and report.groups(table) == []
    )


def test_written_files_are_the_same_every_time(tmp_path):
    store = Store("quick", "results", tmp_path)
    made_up(store, ACCURACIES)
    first = {path: path.read_bytes() for path in results.rebuild(tmp_path)}
    assert {path.name for path in first} == {
        *(
            f"{table}.{kind}"
            for kind in ("csv", "md")
            for table in (
                "ranking",
                "agreement",
                "definitions",
                "cost",
                "theory",
                "teachers",
                "regimes",
                "verdicts",
                "predictions",
            )
        ),
        "plane.png",
        "regimes.png",
        "metric_vs_accuracy.png",
        "metric_vs_accuracy_seven.png",
        "definitions.png",
        "cost.png",
        "CLAIMS.md",
        "report.html",
    }
    assert {path: path.read_bytes() for path in results.rebuild(tmp_path)} == first
    back = pd.read_csv(store.tables / "ranking.csv")
    pd.testing.assert_frame_equal(
        back, report.ranking_table(store), check_dtype=False
    )  # nothing is rounded


def test_figures_as_vectors_on_request(tmp_path):
    made_up(Store("quick", "results", tmp_path), ACCURACIES)
    plain, both = (
        {path.relative_to(tmp_path) for path in results.rebuild(tmp_path, v)} for v in ("", "svg")
    )
    vectors = both - plain
    assert {path.stem for path in vectors} == {path.stem for path in plain if path.suffix == ".png"}
    assert {path.parts[:3] for path in vectors} == {("build", "vector", "quick")}
    assert all((tmp_path / path).read_text().startswith("<?xml") for path in vectors)
    with pytest.raises(ValueError, match="'gif'"):
        results.write(Store("quick", "results", tmp_path), "gif")


def test_comparison_tells_what_differs(tmp_path, capsys):
    yours, ours = Store("quick", "build", tmp_path), Store("quick", "results", tmp_path)
    made_up(ours, ACCURACIES)
    scores = {name: 0.1 * i for i, name in enumerate(profiles.CANDIDATES)}
    made_up(
        yours,
        ACCURACIES | {"none": 90 - 1.1 * ACCURACY_POINTS},
        scores | {"erasing": 0.1 + 1.1 * SCORE_NATS},
    )
    what = TABLES["ranking"]
    table = comparison(what.table(yours), what.table(ours), what.keys, what.tolerances).set_index(
        "augmentation"
    )
    assert table["within_tolerance"].value_counts().to_dict() == {"yes": 14, "no": 2}
    assert (table.loc[["none", "erasing"], "within_tolerance"] == "no").all()
    assert write_comparison(yours) == 0
    said = capsys.readouterr().out
    assert (
        "ranking: within tolerance 14 of 16 rows, 2 no" in said
        and "| erasing |" in said
        and "| augmix |" not in said
    )
    assert "| augmix |" in (yours.folder / "compare.md").read_text()
    for path in ours.runs.iterdir():
        path.unlink()
    write_comparison(yours)
    assert "16 not committed" in capsys.readouterr().out
    assert write_comparison(Store("cpu", "build", tmp_path)) == 1


COMMITTED = [p for p in profiles.PROFILES if (ROOT / "results" / p / "runs").exists()]


def test_figures_come_from_the_committed_records_without_torch(tmp_path):
    """In a copy of the records alone, with torch made unimportable, the committed tables come out
    cell by cell.
    """
    import shutil

    assert COMMITTED == ["quick", "cpu"]
    for profile in COMMITTED:
        shutil.copytree(
            ROOT / "results" / profile / "runs", tmp_path / "results" / profile / "runs"
        )
    shutil.copytree(ROOT / "results/bench", tmp_path / "results/bench")
    shutil.copy(ROOT / "results/paper.csv", tmp_path / "results/paper.csv")
    code = """if True:
        import sys
        class NoTorch:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "torchvision"):
                    raise ImportError(f"{name} is not to be imported here")
        sys.meta_path.insert(0, NoTorch())
        from paperlib.cli import main
        raise SystemExit(main(["figures"]))"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    for profile in COMMITTED:
        names = sorted(path.name for path in (ROOT / "results" / profile / "tables").iterdir())
        tables = [
            "agreement",
            "budget",
            "cost",
            "definitions",
            "forms",
            "kd",
            "methods",
            "precision",
            "precision_of_scores",
            "qat",
            "ranking",
            "score_variants",
            "search",
        ]
        if any(len(setup.seeds) > 1 for setup in plan.setups(profile)):
            tables = sorted([*tables, "seeds"])
        complete = [name for name in REGIME_TABLES if f"{name}.csv" in names]
        assert complete or profile in UNDER_WAY
        systems = [name for name, table in plan.TABLES.items() if table.group == plan.RELATED]
        related = [name for name in results.TABLES if name.partition("_")[0] in systems]
        tables = sorted([*tables, *complete, *(t for t in related if f"{t}.csv" in names)])
        assert names == [f"{table}.{kind}" for table in tables for kind in ("csv", "md")]
        for name in (f"{table}.csv" for table in tables):
            fresh, committed = (
                pd.read_csv(root / "results" / profile / "tables" / name)
                for root in (tmp_path, ROOT)
            )
            pd.testing.assert_frame_equal(fresh, committed)
        for figure in (
            "metric_vs_accuracy",
            "definitions",
            "cost",
            "methods",
            "qat",
            "kd",
            "search",
        ):
            assert (
                tmp_path / "results" / profile / f"figures/{figure}.png"
            ).stat().st_size > 10_000
    pages = [
        {
            # Another matplotlib compresses its pictures otherwise.
            name: re.sub(r"base64,[^\"]+", "", (root / "results" / name).read_text())
            for name in ("CLAIMS.md", "report.html")
        }
        for root in (tmp_path, ROOT)
    ]
    assert pages[0] == pages[1]


REGIME_TABLES = (
    "theory",
    "teachers",
    "temperatures",
    "regimes",
    "verdicts",
    "rivals",
    "capacity",
    "regime_methods",
    "predictions",
)
UNDER_WAY = {
    "cpu": ("theory", "regimes", "regime_gains")
}  # tables of docs/experiments.md whose runs are not all in


@pytest.mark.parametrize("profile", COMMITTED)
def test_committed_records_are_whole(profile):
    store = Store(profile, "results", ROOT)
    records = [json.loads(path.read_text()) for path in sorted(store.runs.glob("*.json"))]
    assert [r["key"] for r in records] == [r["key"] for r in store.all()], (
        "a record would be set aside"
    )
    wanted = {name: plan.runs_of(profile, name, store) for name in plan.TABLES}
    known = {run.key: run for runs in wanted.values() for run in runs}
    finished = {
        run.key
        for name, runs in wanted.items()
        if name not in UNDER_WAY.get(profile, ())
        and not (profile == "cpu" and plan.TABLES[name].group == plan.RELATED)
        for run in runs
    }
    made = {r["key"] for r in records}
    assert finished <= made <= set(known) and {r["status"] for r in records} == {"done"}
    for record in records:
        if "predictions_sha256" in record["result"]:
            classes, _ = store.predictions(known[record["key"]])
            assert len(classes) >= 100
    kept = {path.stem for path in (store.folder / "weights").glob("*")}
    assert kept == plan.kept(profile) & made
    weights = {r["key"]: r["result"].get("weights_sha256") for r in records}
    for record in records:
        if (
            "teacher" in record
        ):  # what was made with a network belongs to the one whose record lies beside it
            assert record["teacher"]["weights_sha256"] == weights[record["teacher"]["key"]]


def test_the_explorer_shows_what_the_tables_say(tmp_path):
    from paperlib.reporting.explorer import explorer

    store = Store("quick", "results", tmp_path)
    setup = made_up(store, ACCURACIES)
    found = explorer([store])
    table = report.ranking_table(store)
    agreement = report.agreement_table(table)
    (shown,) = found["setups"]  # the regime that is the same set-up is not there twice
    for column, name, _ in found["rankers"]:
        row = agreement[(agreement["ranker"] == name) & (agreement["pool"] == "all 16")]
        if len(row):
            assert shown["spearman"][column] == pytest.approx(row["spearman"].item())
        else:  # constant
            assert column not in shown["spearman"]
    assert [point["accuracy"] for point in shown["points"]] == table["accuracy_mean"].tolist()
    for point in shown["points"]:
        assert f"quick/runs/{setup.score.key}.json" == point["records"][0]
        assert all((tmp_path / "results" / path).exists() for path in point["records"])
        assert len(point["records"]) == 1 + point["n"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert explorer([Store("quick", "results", empty)])["setups"] == []
