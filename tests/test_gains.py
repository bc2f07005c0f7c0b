"""Runs that a score's pick names, the tables of C3 and C4, and parts of a table."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_report import ACCURACIES, WHERE, made_up

from paperlib import notebook
from paperlib.cli import main
from paperlib.reporting import claims, results
from paperlib.reporting.compare import write_comparison
from paperlib.reporting.gains import gains_figure, gains_table, panels, wide
from paperlib.study import plan
from paperlib.study.config import ScoreRun, StudentRun
from paperlib.study.plan import Selection, Way
from paperlib.study.profiles import CANDIDATES, SIZES, setups
from paperlib.study.store import Store

SCORES = {
    name: 0.1 * ((i + 13) % 16) for i, name in enumerate(CANDIDATES)
}  # the fourth candidate is the lowest


def scored(tmp_path, scores=SCORES):
    """A store with the ranking of quick under these scores; T. stddev falls along the
    candidates.
    """
    store = Store("quick", root=tmp_path)
    made_up(store, ACCURACIES, scores)
    return store


def trained(store, found, accuracy):
    """Save every student of these tables, with the accuracy that `accuracy` gives it."""
    teacher = found[0].setup.teacher
    facts = {"key": teacher.key, "accuracy": 98.0, "weights_sha256": "0"}
    for gains in found:
        for arms in gains.students(store).values():
            for run in (run for runs in arms.values() for run in runs):
                store.save(run, "done", result={"accuracy": accuracy(run)}, teacher=facts, **WHERE)


def test_picks_are_read_from_the_score_and_unknown_before_it(tmp_path):
    setup = setups("quick")[0]
    assert (
        set(plan.picks(setup, None))
        == set(plan.picks(setup, Store("quick", root=tmp_path)))
        == {Way.BASE, Way.RELEASED}
    )
    store = scored(tmp_path)
    assert plan.picks(setup, store) == {
        Way.BASE: "none",
        Way.RELEASED: "autoaugment_imagenet+cutmix",
        Way.OURS: "trivialaugment",
        Way.OURS_OF_SEVEN: "trivialaugment",
        Way.MINIMAL: CANDIDATES[-1],
    }
    mild = {name: float(i) for i, name in enumerate(CANDIDATES)}
    found = plan.picks(setup, scored(tmp_path / "mild", mild))
    assert (found[Way.OURS], found[Way.OURS_OF_SEVEN]) == ("none", CANDIDATES[1])
    vgg = next(s for s in setups("paper") if s.model == "vgg13")
    assert plan.picks(vgg, None)[Way.RELEASED] == "trivialaugment+cutmix"


def test_stages_name_the_picks_students_after_the_score_was_made(tmp_path):
    store, seen = Store("quick", root=tmp_path), []
    for runs in plan.stages("quick", "kd", store):
        seen.append({run.augmentation for run in runs if isinstance(run, StudentRun)})
        made_up(store, ACCURACIES, SCORES)  # what a sweep does
    first = {"none", "autoaugment_imagenet+cutmix"}
    assert seen == [first, first | {"trivialaugment", CANDIDATES[-1]}]
    assert not any(isinstance(run, ScoreRun) for run in plan.runs_of("quick", "own", store))


def test_stages_go_on_when_a_teacher_came_out_otherwise(tmp_path):
    store, (setup,) = scored(tmp_path), setups("quick")
    store.path(setup.students[0]).unlink()
    seen = []
    for runs in plan.stages("quick", "ranking", store):
        seen.append(sum(map(store.done, runs)))
        if len(seen) == 1:  # what a sweep does whose teacher had to be trained anew
            store.save(
                setup.teacher, "done", result={"accuracy": 97.0, "weights_sha256": "1"}, **WHERE
            )
        if len(seen) == 2:
            facts = {"key": setup.teacher.key, "accuracy": 97.0, "weights_sha256": "1"}
            for run in (setup.score, *setup.students):
                store.save(
                    run, "done", result={"accuracy": 90.0, "scores": []}, teacher=facts, **WHERE
                )
    assert seen == [17, 1]


def test_arms_differ_from_their_reference_in_the_augmentation_alone(tmp_path):
    store = scored(tmp_path)
    for gains in (*plan.qat_gains("quick"), *plan.kd_gains("quick")):
        for (quantizer, bits, loss), arms in gains.students(store).items():
            reference = arms["+ KD" if "+ KD" in arms else Way.BASE]
            assert {run.method for runs in arms.values() for run in runs} == {quantizer}
            for arm, runs in arms.items():
                if arm in ("QAT alone", "+ SQAKD"):
                    assert [run.loss for run in runs] == [
                        {"QAT alone": "ce", "+ SQAKD": "sqakd"}[arm]
                    ] * len(runs)
                    continue
                pairs = (
                    [(a.augmentation, a.seed) for a in runs],
                    [(b.augmentation, b.seed) for b in reference],
                )
                assert (
                    [seed for _, seed in pairs[0]]
                    == [seed for _, seed in pairs[1]]
                    == list(gains.seeds)
                )
                assert all(
                    replace(a, augmentation="none") == b
                    for a, b in zip(runs, reference, strict=True)
                )
                assert {(a.weight_bits, a.activation_bits, a.loss) for a in runs} == {
                    (bits, bits, loss)
                }


def test_gains_are_paired_by_seed(tmp_path, monkeypatch):
    store = scored(tmp_path)
    gains = plan.kd_gains("quick")[0]
    gains = type(gains)(gains.scored, gains.setup, (0, 1, 2), gains.methods[:2], gains.arms)
    base, picked = (60.0, 70.0, 80.0), (61.0, 73.0, 82.0)
    trained(
        store,
        [gains],
        lambda run: (picked if run.augmentation == "trivialaugment" else base)[run.seed],
    )
    table = gains_table([gains], store).set_index(["loss", "arm"])
    row = table.loc[(gains.methods[0][2], Way.OURS)]
    assert (row["augmentation"], row["n"], row["difference"]) == (
        "trivialaugment",
        3,
        pytest.approx(2),
    )
    assert row["difference_se"] == pytest.approx(np.std([1, 3, 2], ddof=1) / 3**0.5)
    assert (table.loc[(slice(None), Way.BASE), "difference"] == 0).all() and table[
        "paper_accuracy"
    ].isna().all()
    shown = wide(table.reset_index())
    assert (
        shown["method"].tolist() == [loss for _, _, loss in gains.methods]
        and shown[Way.OURS][0] == "72.00 ± 10.54"
    )
    # Without one of the reference's seeds its pair is left out, and the mean of the picked students
    # is over all three.
    store.path(gains.students(store)[gains.methods[0]][Way.BASE][1]).unlink()
    row = (
        gains_table([gains], store).set_index(["loss", "arm"]).loc[(gains.methods[0][2], Way.OURS)]
    )
    assert (row["n"], row["difference"], row["accuracy_mean"]) == (
        3,
        pytest.approx(1.5),
        pytest.approx(72),
    )


@pytest.mark.parametrize(
    "scores, gain, spread, expected",
    [
        (SCORES, 2.0, 0.5, "supported"),
        (SCORES, 0.5, 3.0, "partly"),  # the sign, not the strength
        (SCORES, 1.4, 1.0, "partly"),  # 2.4 standard errors, of three seeds
        (SCORES, -1.0, 0.5, "not supported"),
        (
            {name: float(i) for i, name in enumerate(CANDIDATES)},
            5.0,
            0.5,
            "not supported",
        ),  # the base augmentation is the pick
    ],
)
def test_verdicts_on_improvement_follow_the_records(
    tmp_path, monkeypatch, scores, gain, spread, expected
):
    tables = {name: getattr(plan, name)("quick") for name in ("qat_gains", "kd_gains")}
    for name, found in tables.items():
        three = [type(g)(g.scored, g.setup, (0, 1, 2), g.methods, g.arms) for g in found]
        monkeypatch.setattr(plan, name, lambda profile, three=three: three)
    store = scored(tmp_path, scores)
    for name in tables:
        trained(
            store,
            getattr(plan, name)("quick"),
            lambda run: (
                70.0 + (run.augmentation != "none") * (gain + spread * (run.seed - 1)) + run.seed
            ),
        )
    found = {claim.name: claim for claim in claims.claims([store])}
    assert [found[name].verdict for name in ("C3", "C4")] == [expected] * 2
    one = plan.kd_gains("quick")[0]
    path = store.path(one.students(store)[one.methods[0]][Way.BASE][0])
    kept = path.read_bytes()
    path.unlink()  # what is incomplete is not judged
    assert {c.name: (c.verdict, c.setups) for c in claims.claims([store])}["C4"] == (
        "not tested",
        0,
    )
    path.write_bytes(kept)
    students = {
        run.key
        for g in plan.qat_gains("quick")
        for arms in g.students(store).values()
        for r in arms.values()
        for run in r
    }
    assert found["C3"].records == len(students) + 2 and found["C3"].setups == 1
    first = found["C3"].evidence[0]
    if scores is SCORES:
        sure = 2 if expected == "supported" else 0
        assert (
            "trivialaugment: " in first
            and f"{gain:+.2f} points on average" in first
            and f"({sure} clearly)" in first
        )
    else:
        assert "nothing changes for any of 2 methods" in first


def test_tables_and_figures_of_gains_are_written(tmp_path):
    store = scored(tmp_path)
    trained(
        store,
        [*plan.qat_gains("quick"), *plan.kd_gains("quick")],
        lambda run: ACCURACIES[run.augmentation],
    )
    written = {path.name for path in results.write(store)}
    assert {"qat.csv", "qat.md", "qat.png", "kd.csv", "kd.md", "kd.png"} <= written
    assert (store.tables / "qat.md").read_text().count("not available") == len(
        pd.read_csv(store.tables / "qat.csv")
    )
    table = gains_table(plan.qat_gains("quick"), store)
    [(name, rows)] = panels(table)
    axis = gains_figure(table).axes[0]
    assert (
        [t.get_text() for t in axis.get_yticklabels()]
        == list(dict.fromkeys(rows["method"]))
        == ["EWGS W2A2", "LSQ W2A2"]
    )
    assert name == "digits, resnet8, quick" and "our pick: TrivialAugment" in axis.get_title(
        loc="left"
    )


def test_yours_are_compared_with_ours_arm_by_arm(tmp_path, capsys):
    ours, yours = Store("quick", "results", tmp_path), Store("quick", "build", tmp_path)
    for store, shift in ((ours, 0.0), (yours, 4.0)):
        made_up(store, ACCURACIES, SCORES)
        trained(
            store,
            plan.kd_gains("quick"),
            lambda run, shift=shift: (
                80.0 + shift * (run.loss == "at" and run.augmentation == "trivialaugment")
            ),
        )
    assert write_comparison(yours) == 0
    said, arms = capsys.readouterr().out, len(plan.KD_ARMS) * len(plan.kd_gains("quick")[0].methods)
    assert (
        f"kd: within tolerance {arms - 2} of {arms} rows, 2 no" in said
    )  # both arms that share this student
    assert said.count("| at |") == 2 and "ranking: within tolerance 16 of 16 rows\n" in said


def test_the_gpu_profiles_hold_the_papers_rows():
    tiny = {(s.model, s.method, s.bits): s for s in SIZES["paper"].sqakd}
    assert len(tiny) == 11 and SIZES["cpu"].sqakd == ()
    squeeze = tiny["squeezenet1_0", "dorefa_released", 8]
    assert (squeeze.student("none", loss="sqakd").loss_options, squeeze.student_recipe.batch) == (
        {"alpha": 50},
        64,
    )
    assert (
        tiny["vgg11_bn", "pact_released", 3].student_recipe.lr == 0.004
        and squeeze.teacher_recipe.lr == 0.05
    )
    rows = {
        (g.setup.data.name, g.setup.model, *m[:2])
        for g in plan.qat_gains("paper")
        for m in g.methods
    }
    for model, dataset in (
        ("resnet20", "cifar10"),
        ("vgg8", "cifar10"),
        ("resnet32", "cifar100"),
        ("vgg13", "cifar100"),
    ):
        assert {(dataset, model, "ewgs", bits) for bits in (1, 2, 4)} <= rows
    [kd] = plan.kd_gains("paper")
    assert (kd.setup.model, len(kd.methods)) == ("vgg13", 12)
    factor = kd.students(None)["ewgs", 2, "ft"][Way.BASE][0]
    assert factor.loss_options == {"init_epochs": 30, "init_lr": None}
    assert len(rows) == sum(
        len(g.methods) for g in plan.qat_gains("paper")
    )  # no line stands there twice


def test_a_part_of_a_table(tmp_path, monkeypatch, capsys):
    part = Selection("cifar100", "vgg13", 2, 1)
    runs = plan.runs_of("paper", "ranking", part=part)
    assert len(runs) == 18 and {run.data.name for run in runs} == {"cifar100"}
    assert {run.seed for run in runs if isinstance(run, StudentRun)} == {0}
    assert plan.runs_of("paper", "ranking", part=Selection(bits=2)) != plan.runs_of(
        "paper", "ranking"
    )
    table = pd.DataFrame(
        {
            "dataset": ["a", "a", "b"],
            "model": ["x", "y", "x"],
            "bits": [2, 3, 2],
            "value": [1, 2, 3],
        }
    )
    assert Selection(model="x").rows(table)["value"].tolist() == [1, 3]
    assert (
        Selection("a", bits=3).rows(table)["value"].tolist() == [2]
        and len(Selection().rows(table)) == 3
    )
    with pytest.raises(ValueError, match="-1"):
        Selection(bits=-1)
    assert (
        Selection("a").rows(table[:0]).columns.tolist() == table.columns.tolist()
    )  # nothing there yet: still a table
    assert plan.lacks("quick", "ranking", Selection(bits=7)).startswith(
        "ranking of quick has nothing for bits=7"
    )
    assert (
        plan.lacks("quick", "tour", Selection(bits=7))
        == ""
        != plan.lacks("quick", "tour", Selection("svhn"))
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()  # as in the folder of the repository
    assert main(["run", "--table", "ranking", "--dataset", "imagenet"]) == 1
    assert "'imagenet'; it has digits resnet8" in capsys.readouterr().err
    assert (
        main(
            [
                "status",
                "--profile",
                "paper",
                "--table",
                "ranking",
                "--model",
                "vgg8",
                "--seeds",
                "2",
            ]
        )
        == 0
    )
    assert "34 missing" in capsys.readouterr().out
    monkeypatch.setattr(notebook, "repository", lambda: tmp_path)
    with pytest.raises(ValueError, match="vgg99"):
        notebook.stores("qat", Selection(model="vgg99"), profiles=["quick", "cpu"])
    made_up(Store("quick", "results", tmp_path), ACCURACIES)
    [store] = notebook.stores(
        "ranking", Selection("digits", "resnet8"), profiles=["cpu", "quick"]
    )  # cpu has it not
    assert store.profile == "quick"
