"""Keys, records, resuming, failures: what is done is never lost, what is not right is never
trusted.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from paperlib import notebook
from paperlib.basics.files import write_atomically
from paperlib.basics.recipe import Recipe
from paperlib.cli import main
from paperlib.notebook import Parameters
from paperlib.reporting.report import MissingRuns, require
from paperlib.runs import execution, kinds
from paperlib.runs import sweep as sweeping
from paperlib.runs.sweep import SweepError, sweep
from paperlib.study import plan, profiles
from paperlib.study.config import (
    KINDS,
    Data,
    PredictionRun,
    ScoreRun,
    StudentRun,
    TeacherRun,
    check_parameters,
    key_of,
)
from paperlib.study.store import Store, record_in

TEACHER = TeacherRun(
    Data("digits", train=100, test=50), "resnet8", Recipe(2, 50, 0.05, 1e-4, "sgd")
)
SCORE = ScoreRun(TEACHER.data, TEACHER, ("none", "augmix+cutmix"), stddev_group=20, replicates=5)
STUDENT = StudentRun(
    TEACHER.data, TEACHER, "none+cutmix", Recipe(2, 50, 1e-3, 0.0, quantizer_lr=1e-5), 2, 2
)
RUNS = [TEACHER, SCORE, STUDENT, replace(STUDENT, augmentation="erasing")]


@pytest.fixture(scope="module", autouse=True)
def _one_core(one_thread):
    """The number of threads changes last bits, which training amplifies: every run here has one."""
    cores = sweeping.count_cores
    sweeping.count_cores = lambda: 1
    yield
    sweeping.count_cores = cores


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with all of RUNS made once, in this process."""
    store = Store("quick", root=tmp_path_factory.mktemp("made"))
    sweep(RUNS, store, jobs=1)
    return store


def results(store):
    """What a run determines: the records without times and places."""
    found = {}
    for record in store.all():
        result = json.loads(json.dumps(record.get("result", {})))
        for row in result.get("curve", []):
            del row["seconds"], row["cpu_seconds"]
        found[record["key"]] = (record["status"], record["config"], result, record.get("teacher"))
    return found


def test_records_hold_what_a_reader_needs(made):
    record = made.load(STUDENT)
    assert record["status"] == "done" and record["profile"] == "quick"
    assert record["config"] == json.loads(json.dumps(asdict(STUDENT)))
    assert record["teacher"]["key"] == TEACHER.key
    assert record["teacher"]["accuracy"] == made.load(TEACHER)["result"]["accuracy"]
    assert record["teacher"]["weights_sha256"] == made.load(TEACHER)["result"]["weights_sha256"]
    curve = record["result"]["curve"]
    assert [row["epoch"] for row in curve] == [0, 1]
    assert (
        record["result"]["accuracy"]
        == record["result"]["accuracy_last"]
        == curve[-1]["test_accuracy"]
    )
    assert record["result"]["accuracy_best_on_test"] == max(row["test_accuracy"] for row in curve)
    assert record["seconds"] == sum(row["seconds"] for row in curve)
    assert {"device", "torch", "python", "threads", "commit", "finished"} <= set(
        record["environment"]
    )
    assert [row["augmentation"] for row in made.load(SCORE)["result"]["scores"]]


def test_the_headline_is_the_mean_of_the_last_five_for_long_schedules():
    curve = [{"test_accuracy": float(i)} for i in range(100)]
    assert kinds.curve_result(curve)["accuracy"] == 97.0
    assert kinds.curve_result(curve[:99])["accuracy"] == 98.0


def test_a_second_sweep_recomputes_nothing(made):
    before = {path: path.stat().st_mtime_ns for path in made.runs.iterdir()}
    sweep(RUNS, made, jobs=1)
    assert {path: path.stat().st_mtime_ns for path in made.runs.iterdir()} == before


def test_processes_make_the_same_records(made, tmp_path):
    other = Store("quick", root=tmp_path)
    sweep(RUNS, other, jobs=2)
    assert results(other) == results(made)


def test_students_trained_together_leave_a_record_each(made, tmp_path):
    """At eight bits and one epoch the rounding of packed kernels is not amplified: the losses agree
    with those alone.
    """
    eight = replace(
        STUDENT, weight_bits=8, activation_bits=8, recipe=replace(STUDENT.recipe, epochs=1)
    )
    runs = [replace(eight, augmentation=name) for name in ("none", "none+cutmix", "erasing")]
    assert [len(unit) for unit in sweeping.packs([TEACHER, *runs, STUDENT, SCORE], 2)] == [
        1,
        2,
        1,
        1,
        1,
    ]
    stores = [Store("quick", root=tmp_path / name) for name in ("alone", "together")]
    for store in stores:  # the teacher that is there already, with its weights
        for path in (made.path(TEACHER), made.weights(TEACHER)):
            target = store.root / path.relative_to(made.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    sweep(runs, stores[0], jobs=1)
    sweep(runs, stores[1], jobs=1, together=2)
    for run in runs:
        one, other = (store.load(run) for store in stores)
        assert other["status"] == "done" and other["teacher"] == one["teacher"]
        assert other["result"]["curve"][0]["loss"] == pytest.approx(
            one["result"]["curve"][0]["loss"], rel=0.02
        )
    assert stores[1].load(runs[0])["environment"]["trained_together"] == 2
    with pytest.raises(ValueError, match="0"):
        sweep(runs, stores[1], together=0)


def test_students_in_turn_leave_the_records_of_students_alone(made, tmp_path, monkeypatch):
    """Also where one fails, and where they were interrupted when one had ended its first epoch."""
    plain = replace(STUDENT, augmentation="none")
    changes = {"method": "lsq"}, {"loss": "at"}, {"loss": "ce", "weight_bits": 3}
    runs = [replace(plain, **change) for change in ({"method_options": {"delta": -1.0}}, *changes)]
    assert [len(unit) for unit in sweeping.packs([*RUNS, *runs], 3, execution.lesson)] == [
        *(1, 1, 1, 1),
        *(3, 1),
    ]
    stores = [Store("quick", root=tmp_path / name) for name in ("alone", "turn", "interrupted")]
    for store in stores:
        shutil.copytree(made.root, store.root)
    with monkeypatch.context() as patched, pytest.raises(SweepError, match="delta"):
        patched.setattr(sweeping, "IN_TURN", 1)
        sweep(runs, stores[0], jobs=1)

    def interrupted(row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(kinds, "reporter", lambda *run: interrupted)
        sweep(runs, stores[2], jobs=1)
    for store in stores[1:]:
        with pytest.raises(SweepError, match="delta") as raised:
            sweep(runs, store, jobs=1)
        assert len(str(raised.value).splitlines()) == 1, "the others are done"
        assert store.load(runs[1])["environment"]["trained_in_turn"] == 3
        assert results(store) == results(stores[0])
        assert not list(store.cache.glob("*.epoch.pt"))


@pytest.mark.parametrize("damage", ["configuration", "result", "truncated", "status"])
def test_a_record_that_does_not_match_is_set_aside_and_made_again(made, tmp_path, damage):
    store = Store("quick", root=tmp_path)
    original = made.path(SCORE).read_text()
    record = json.loads(original)
    if damage == "configuration":
        record["config"]["seed"] = 5
    elif damage == "result":
        record["result"]["scores"][0]["score"] -= 1
    elif damage == "status":
        record["status"] = "perfect"
    text = original[: len(original) // 2] if damage == "truncated" else json.dumps(record)
    shutil.copytree(made.folder, store.folder)
    shutil.copytree(made.cache, store.cache, dirs_exist_ok=True)
    write_atomically(store.path(SCORE), text)
    with pytest.warns(UserWarning, match=SCORE.key):
        assert store.load(SCORE) is None
    assert store.path(SCORE).read_text() == text, "who reads does not rename"
    with pytest.warns(UserWarning, match=SCORE.key):
        sweep(RUNS, store, jobs=1)
    (aside,) = store.runs.glob("*.rejected")
    assert aside.read_text() == text, "nothing is lost"
    assert results(store) == results(made)
    assert record_in(original.encode(), SCORE.key) == json.loads(original)
    assert "key" in record_in(original.encode(), "0" * 16)


def test_a_failure_is_recorded_and_tried_again(tmp_path, monkeypatch):
    store = Store("quick", root=tmp_path)
    monkeypatch.setattr(
        kinds, "build", lambda *_: (_ for _ in ()).throw(RuntimeError("the disk is on fire"))
    )
    with pytest.raises(SweepError, match="the disk is on fire"):
        sweep([TEACHER, STUDENT], store, jobs=1)
    record = store.load(TEACHER)
    assert (
        record["status"] == "failed" and "RuntimeError: the disk is on fire" in record["error"][-1]
    )
    assert store.load(STUDENT) is None  # not tried: its teacher is not there
    assert "failed" in store.progress.read_text()
    monkeypatch.undo()
    sweep([TEACHER], store, jobs=1)
    assert store.done(TEACHER)


def test_damaged_weights_are_set_aside_and_trained_again(made, tmp_path):
    store = Store("quick", root=tmp_path)
    sweep([TEACHER], store, jobs=1)
    store.weights(TEACHER).write_bytes(b"torn")
    sweep([STUDENT], store, jobs=1)
    aside = store.weights(TEACHER).with_suffix(".safetensors.rejected")
    assert aside.read_bytes() == b"torn"
    assert results(store)[STUDENT.key] == results(made)[STUDENT.key]


def test_students_of_other_weights_are_not_done(made, tmp_path):
    """Where training a teacher again gave other weights, what was made with the old ones is made
    again.
    """
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    store = Store("quick", root=tmp_path)
    assert store.done(STUDENT)
    record = store.load(TEACHER)
    store.save(TEACHER, "done", result=record["result"] | {"weights_sha256": "0" * 64})
    assert store.done(TEACHER) and not store.done(STUDENT) and not store.done(SCORE)
    with pytest.raises(ValueError, match="not those"):
        execution.load_network(TEACHER, store, "cpu")


def test_a_worker_that_dies_does_not_take_the_others_with_it(tmp_path):
    store = Store("quick", root=tmp_path)
    sweep([TEACHER], store, jobs=1)
    executors = []

    class Dying(ThreadPoolExecutor):
        """Breaks like a process pool whose worker was killed, once."""

        def submit(self, function, *arguments):
            if not executors:
                executors.append(self)
                future = Future()
                future.set_exception(BrokenExecutor("a process was terminated abruptly"))
                return future
            return super().submit(function, *arguments)

    sweep(RUNS, store, executor=Dying(1))
    assert (
        all(store.done(run) for run in RUNS)
        and "a worker process died" in store.progress.read_text()
    )


def test_students_whose_worker_dies_are_made_alone(made, tmp_path):
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    store, sizes = Store("quick", root=tmp_path), []

    class Dying(ThreadPoolExecutor):
        """Breaks at whatever trains more than one student."""

        def submit(self, function, work, number, unit):
            sizes.append(len(unit))
            if len(unit) == 1:
                return super().submit(function, work, number, unit)
            future = Future()
            future.set_exception(BrokenExecutor("a process was terminated abruptly"))
            return future

    runs = [replace(STUDENT, augmentation="none", seed=seed) for seed in (1, 2)]
    sweep(runs, store, executor=Dying(1), together=2)
    assert sizes == [2, 2, 2, 1, 1] and all(map(store.done, runs))


def test_one_failure_does_not_stop_the_others(made, tmp_path):
    store = Store("quick", root=tmp_path)
    bad = replace(STUDENT, method_options={"delta": -1.0})
    with pytest.raises(SweepError, match="delta"):
        sweep([bad, TEACHER], store, jobs=1)
    assert store.done(TEACHER) and store.load(bad)["status"] == "failed"


@pytest.mark.parametrize(
    "name",
    (
        {"method": "awq"},
        {"loss": "kl"},
        {"augmentation": "mixup"},
        {"data": replace(STUDENT.data, name="mnist")},
        {"teacher": replace(STUDENT.teacher, model="vgg99")},
    ),
)
def test_an_unknown_name_is_refused_before_any_work(name, tmp_path):
    store = Store("quick", root=tmp_path)
    with pytest.raises(ValueError, match="unknown .*(awq|kl|mixup|mnist|vgg99)"):
        sweep([TEACHER, replace(STUDENT, **name)], store, jobs=1)
    assert not store.done(TEACHER)


KILLED = """
import signal, sys, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background
torch.set_num_threads(1)
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_runs import RUNS
from paperlib.study.store import Store
from paperlib.runs.sweep import sweep
import paperlib.runs.sweep
paperlib.runs.sweep.count_cores = lambda: 1
sweep(RUNS, Store("quick", root=Path({root!r})), jobs=1)
"""


def test_killed_at_random_moments_it_ends_with_the_same_records(made, tmp_path):
    """SIGKILL, which nothing can catch, at three moments (`make storm` has hundreds); then a run to
    the end.
    """
    script = KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    store = Store("quick", root=tmp_path)
    for moment in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        target = moment + 1  # progress lines: after the first epoch of the teacher, and so on
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            lines = store.progress.read_text().count("epoch") if store.progress.exists() else 0
            if lines >= target:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in store.runs.glob("*.json"):
            assert isinstance(record_in(path.read_bytes(), path.stem), dict), (
                "a half-written record"
            )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert results(store) == results(made)


def test_ctrl_c_leaves_clean_records_and_no_process(made, tmp_path):
    """SIGINT to the whole group, as a terminal sends it, while two worker processes train."""
    script = KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path)).replace(
        "jobs=1", "jobs=2"
    )
    store = Store("quick", root=tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if store.progress.exists() and "student" in store.progress.read_text():
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) != 0
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(process.pid, 0)  # raises once nobody of the group is left
            time.sleep(0.1)
    assert {json.loads(path.read_text())["status"] for path in store.runs.glob("*.json")} == {
        "done"
    }
    subprocess.run([sys.executable, "-c", script], check=True)
    assert results(store) == results(made)


def test_keys():
    assert (
        STUDENT.key
        == replace(STUDENT).key
        == key_of("student", json.loads(json.dumps(asdict(STUDENT))))
    )
    changed = [
        replace(STUDENT, seed=1),
        replace(STUDENT, weight_bits=3),
        replace(STUDENT, method_options={"delta": 0.1}),
        replace(STUDENT, teacher=replace(TEACHER, seed=1)),
        TEACHER,
        SCORE,
    ]
    assert len({run.key for run in [STUDENT, *changed]}) == 7
    with pytest.raises(ValueError, match="pupil"):
        key_of("pupil", {})


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError):
        write_atomically(path, "new")
    assert path.read_text() == "old"


# ---------------------------------------------------------------------- profiles, parameters, shell


def test_profiles_have_every_candidate_and_the_papers_rows():
    from paperlib.augment import AUGMENTATIONS, POLICIES

    assert profiles.CANDIDATES == AUGMENTATIONS and set(profiles.POLICIES) <= set(POLICIES)
    for profile in profiles.PROFILES:
        for setup in plan.setups(profile):
            assert len(setup.students) == 16 * len(setup.seeds)
            assert setup.teacher.augmentation == (
                "none" if setup.data.name == "tiny-imagenet" else "none+cutmix"
            )
    rows = {(s.data.name, s.model): s for s in plan.setups("paper")}
    resnet = rows["cifar10", "resnet20"]
    assert (resnet.bits, resnet.student_recipe) == (
        3,
        Recipe(1200, 256, 1e-3, 1e-4, quantizer_lr=1e-5),
    )
    assert resnet.teacher_recipe == Recipe(1200, 256, 0.1, 1e-4, "sgd")
    vgg = rows["cifar100", "vgg13"]
    assert (vgg.bits, vgg.student_recipe) == (2, Recipe(200, 64, 5e-4, 5e-4, quantizer_lr=5e-6))
    assert vgg.teacher_recipe == Recipe(720, 64, 0.05, 5e-4, "sgd")
    tiny = rows["tiny-imagenet", "mobilenetv2"]
    assert (tiny.bits, tiny.method, tiny.method_options, tiny.data.size) == (
        3,
        "pact_released",
        {"kept_bits": 8},
        224,
    )
    assert tiny.student_recipe == Recipe(
        100, 64, 0.004, 1e-4, "sgd_nesterov", schedule="step", warmup_steps=2500
    )
    assert tiny.student("none").loss_options == {"smoothing": 0.1, "gamma": 3, "alpha": 6}
    assert (tiny.teacher.smoothing, vgg.teacher.smoothing) == (0.1, 0.0)
    assert len(plan.runs_of("paper", "ranking")) == 7 * (1 + 1 + 48)


def test_unknown_names_are_refused():
    for call, named in (
        (lambda: plan.setups("tiny"), "tiny"),
        (lambda: plan.runs_of("quick", "t9"), "t9"),
        (lambda: Store("quick", "elsewhere"), "elsewhere"),
    ):
        with pytest.raises(ValueError, match=named):
            call()


@pytest.mark.parametrize(
    "values, error, named",
    [
        ({"profile": ["quick"]}, ValueError, "profile"),
        ({"cached_only": "false"}, TypeError, "'false'"),
        ({"jobs": "2"}, TypeError, "'2'"),
        ({"profiles": "quick"}, TypeError, "list"),
        ({"jobs": True}, TypeError, "bool"),
    ],
)
def test_notebook_parameters_are_checked(values, error, named):
    with pytest.raises(error, match=named):
        check_parameters(values, Parameters)


def test_missing_runs_name_the_command(tmp_path):
    with pytest.raises(
        MissingRuns, match=r"18 runs are missing[\s\S]*make reproduce PROFILE=quick"
    ):
        require(
            Store("quick", root=tmp_path),
            plan.runs_of("quick", "ranking"),
            "make reproduce PROFILE=quick",
        )


@pytest.mark.parametrize(
    "parameters, command",
    [
        ({"tree": "build"}, "make run PROFILE=quick TABLE=ranking SEEDS=1"),
        (
            {"tree": "results", "device": "cuda"},
            "make run PROFILE=quick TABLE=ranking SEEDS=1 DEVICE=cuda RECORD=1",
        ),
    ],
)
def test_a_notebook_without_its_runs_names_what_makes_them_where_it_looks(
    tmp_path, monkeypatch, parameters, command
):
    monkeypatch.setattr(notebook, "repository", lambda: tmp_path)
    with pytest.raises(MissingRuns) as caught:
        notebook.stores("ranking", plan.Selection(seeds=1), **parameters)
    assert str(caught.value).endswith(f"Make them with: {command}")


@pytest.mark.parametrize(
    "arguments, named",
    [(dict(device="tpu"), "tpu"), (dict(jobs=-1), "-1"), (dict(device="cuda:99"), "cuda:99")],
)
def test_sweep_names_what_is_wrong(tmp_path, monkeypatch, arguments, named):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=named):
        sweep(RUNS, Store("quick", root=tmp_path), **arguments)


def test_status_counts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["status", "--table", "ranking"]) == 1  # not the repository's folder
    assert str(tmp_path) in capsys.readouterr().err
    (tmp_path / "results").mkdir()
    assert main(["status", "--table", "ranking"]) == 0
    said = capsys.readouterr().out
    assert (
        "0 done, 0 failed, 18 missing" in said
        and "0.0 hours in one process" in said
        and "18 runs of kinds" in said
    )
    store = Store("quick", root=tmp_path)
    setup = plan.setups("quick")[0]
    facts = {"weights_sha256": "a"}
    for run, seconds, weights in (
        *zip(setup.students, (7200.0, 0.0), "aa", strict=False),
        (setup.students[2], 9.0, "b"),
    ):
        store.save(
            run,
            "done",
            result={"accuracy": 9.0},
            teacher={"weights_sha256": weights},
            seconds=seconds,
        )
    assert main(["status", "--table", "ranking"]) == 0
    assert (
        "0 done, 0 failed, 15 missing, 3 stale" in capsys.readouterr().out
    )  # students of no teacher that is here
    store.save(setup.teacher, "done", result=facts, seconds=0.0)
    assert main(["status", "--table", "ranking"]) == 0
    said = capsys.readouterr().out
    assert (
        "3 done, 0 failed, 14 missing, 1 stale" in said
        and "stale    " + setup.students[2].key in said
    )
    assert "about 14.0 hours" in said and "1 runs of kinds" in said  # 14 students, and the score
    assert main(["status", "--profile", "huge"]) == 2
    assert "huge" in capsys.readouterr().err


# ------------------------------------------------------------------------- runs that look at others


def test_predictions_of_a_network_are_those_it_kept_when_it_was_trained(tmp_path):
    """Asked for alone, they have the student made, and its teacher."""
    store, run = Store("quick", root=tmp_path), PredictionRun(STUDENT.data, STUDENT)
    sweep([run], store, jobs=1)
    kept, found = store.predictions(STUDENT), store.predictions(run)
    assert all((a == b).all() for a, b in zip(kept, found, strict=True))
    assert store.load(run)["result"]["accuracy"] == store.load(STUDENT)["result"]["accuracy"]
    assert store.load(run)["teacher"]["key"] == STUDENT.key
    assert {record["kind"] for record in store.all()} == {"teacher", "student", "prediction"}
    other = replace(run, data=replace(run.data, test=20))  # on fewer images: another run
    sweep([other], store, jobs=1)
    assert len(store.predictions(other)[0]) == 20
    student = store.load(STUDENT)["result"]
    store.save(STUDENT, "done", result=student | {"weights_sha256": "0" * 64})
    assert not store.done(run)  # other weights
    (store.path(TEACHER)).unlink()
    assert not store.done(other)  # a student without its teacher is not done either


def test_a_kind_of_run_stands_for_one_class():
    with pytest.raises(ValueError, match="student"):
        type("Other", (StudentRun,), {"kind": "student", "__module__": "elsewhere"})
    assert KINDS["student"] is StudentRun
