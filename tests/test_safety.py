"""Nothing finished is lost, nothing wrong is called done. Each test stands for a kind of fault;
tests/storm.py tries them by chance.
"""

import json
import os
import random
import shutil
import signal
import stat
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from paperlib import data
from paperlib.basics.files import set_aside, write_atomically
from paperlib.basics.recipe import Recipe
from paperlib.cli import main
from paperlib.losses import objective
from paperlib.models import build
from paperlib.quantizers import quantize
from paperlib.reporting import results as written
from paperlib.reporting.style import markdown
from paperlib.runs import execution, kinds
from paperlib.runs.pool import Pool, WorkerDied
from paperlib.runs.sweep import SweepError, sweep
from paperlib.study.config import Data, StudentRun, TeacherRun
from paperlib.study.store import Store
from paperlib.training import Task, fit

TINY = Data("digits", train=40, test=20)
TEACHER = TeacherRun(TINY, "resnet8", Recipe(1, 20, 0.05, 1e-4, "sgd", threads=1))
STUDENT = StudentRun(TINY, TEACHER, "none", Recipe(2, 20, 1e-3, 0.0, quantizer_lr=1e-5), 2, 2)
DIGITS = data.subset(data.load("digits"), train=40, test=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = Store("quick", root=tmp_path_factory.mktemp("made"))
    sweep([TEACHER, STUDENT], store, jobs=1)
    return store


@pytest.fixture
def store(made, tmp_path):
    """A copy of the finished store."""
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    return Store("quick", root=tmp_path)


def failing(*_):
    raise RuntimeError("the disk is on fire")


# ------------------------------------------------------------- a finished record stays (1, 4, 6, 7)


def test_a_failure_leaves_a_finished_record(store, monkeypatch):
    """Also where a finished teacher lost its weights, and training it again fails."""
    before = store.path(STUDENT).read_bytes()
    assert store.save(STUDENT, "failed", error=["no"])["status"] == "done"
    assert store.path(STUDENT).read_bytes() == before
    store.weights(TEACHER).unlink()
    monkeypatch.setattr(kinds, "build", failing)
    with pytest.raises(SweepError, match="on fire"):
        sweep([TEACHER, replace(STUDENT, seed=1)], store, jobs=1)
    assert store.done(TEACHER) and store.done(STUDENT)


class Broken(ThreadPoolExecutor):
    """An executor whose workers all die. `meanwhile` is what another sweep does before."""

    def __init__(self, meanwhile=lambda: None):
        super().__init__(1)
        self.meanwhile = meanwhile

    def submit(self, function, *arguments):
        self.meanwhile()
        future = Future()
        future.set_exception(BrokenExecutor("killed"))
        return future


def test_a_sweep_that_lost_its_workers_leaves_what_another_finished(made, store):
    """And what another is making: its lock is held."""
    store.path(STUDENT).unlink()

    def meanwhile():
        shutil.copy(made.path(STUDENT), store.path(STUDENT))

    sweep([STUDENT], store, executor=Broken(meanwhile))
    assert store.path(STUDENT).read_bytes() == made.path(STUDENT).read_bytes()
    other = replace(STUDENT, seed=5)
    with store.lock(other), pytest.raises(SweepError, match=other.key[:8]):
        sweep([other], store, executor=Broken())
    assert store.load(other) is None
    with pytest.raises(SweepError, match="died"):
        sweep([other], store, executor=Broken())
    assert store.load(other)["status"] == "failed"


def _deadly(unit):
    """Work for a worker process: 3 kills it, the others take a moment."""
    if unit == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return unit * unit


def test_only_the_unit_that_kills_its_worker_is_given_up():
    found, died = {}, []

    def collect(unit, outcome):
        try:
            found[unit] = outcome()
        except WorkerDied:
            died.append(unit)

    Pool(2, 1, say=lambda text: None).work(_deadly, range(12), collect)
    assert died == [3] and found == {n: n * n for n in range(12) if n != 3}


def test_failures_are_counted_by_key(tmp_path, monkeypatch):
    """Two teachers that differ in the learning rate alone, with a student each: four failures."""
    store = Store("quick", root=tmp_path)
    monkeypatch.setattr(kinds, "build", failing)
    teachers = [replace(TEACHER, recipe=replace(TEACHER.recipe, lr=lr)) for lr in (0.1, 0.2)]
    students = [replace(STUDENT, teacher=teacher) for teacher in teachers]
    assert len({run.name for run in (*teachers, *students)}) == 4
    with pytest.raises(SweepError) as caught:
        sweep([*teachers, *students], store, jobs=1)
    for run in (*teachers, *students):
        assert run.key[:8] in str(caught.value)
    assert all(store.load(teacher)["status"] == "failed" for teacher in teachers)
    assert "0 of 4 runs done" in store.progress.read_text()


@pytest.mark.parametrize("lr", [1e10, 1e30])
def test_a_network_that_is_not_finite_is_not_done(tmp_path, lr):
    store = Store("quick", root=tmp_path)
    run = replace(TEACHER, recipe=replace(TEACHER.recipe, lr=lr, epochs=2))
    with pytest.raises(SweepError, match="finite|nan|inf"):
        sweep([run], store, jobs=1)
    assert store.load(run)["status"] == "failed"


def test_a_weight_that_is_not_finite_ends_the_training_though_the_loss_is():
    """A bias that no output depends on: the loss stays finite."""
    model = build("resnet8", 10)
    model.unused = torch.nn.Parameter(torch.tensor(float("inf")))
    with pytest.raises(FloatingPointError, match="unused"):
        fit(model, Task(DIGITS, "none", objective("ce"), TEACHER.recipe, 0))


def test_a_number_that_is_not_finite_is_no_result(tmp_path):
    with pytest.raises(ValueError, match="result.rows.1.score"):
        rows = [{"score": 1.0}, {"score": float("nan")}]
        Store("quick", root=tmp_path).save(STUDENT, "done", result={"rows": rows})


def test_a_teacher_made_again_meanwhile_is_noticed(store, monkeypatch):
    """The record of a student never joins the results of one teacher with the name of another."""
    run, original = replace(STUDENT, seed=3), kinds.make_student

    def slow(*arguments):
        result = original(*arguments)
        known = store.load(TEACHER)["result"]
        store.save(TEACHER, "done", result=known | {"weights_sha256": "0" * 64})
        return result

    monkeypatch.setattr(kinds, "make_student", slow)
    with pytest.raises(SweepError, match="again"):
        sweep([run], store, jobs=1)
    assert not store.done(run)


# ---------------------------------------------------------------------- checkpoints (kinds 2, 3, 5)


def student():
    return quantize(build("resnet8", 10), "ewgs", 2, 2)


def task(seed=0, epochs=3):
    recipe = Recipe(epochs, 20, 1e-3, 0.0, quantizer_lr=1e-5)
    return Task(DIGITS, "none", objective("kd"), recipe, seed, build("resnet8", 10, seed=1))


class Killed(Exception):
    pass


def interrupted(path, task, identity="mine", model=student, after=1):
    """Leave a checkpoint after so many epochs."""

    def kill(row):
        if row["epoch"] + 1 == after:
            raise Killed

    with pytest.raises(Killed):
        fit(model(), task, path, kill, identity=identity)


def ends_as_if_alone(path):
    """Training from a checkpoint that must not be used ends as if there were none."""
    content, (mine, alone) = path.read_bytes(), (student(), student())
    with pytest.warns(UserWarning, match="set aside"):
        curve = fit(mine, task(), path, identity="mine")
    assert path.with_name("run.pt.rejected").read_bytes() == content, "nothing is lost"
    assert [row["loss"] for row in curve] == [row["loss"] for row in fit(alone, task())]
    for name, value in alone.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, mine.state_dict()[name])


@pytest.mark.parametrize("seed", range(6))
def test_a_bit_flip_in_a_checkpoint_is_noticed(tmp_path, seed):
    path, luck = tmp_path / "run.pt", random.Random(seed)
    interrupted(path, task())
    content = bytearray(path.read_bytes())
    content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
    path.write_bytes(content)
    ends_as_if_alone(path)


@pytest.mark.parametrize(
    "left",
    [
        lambda path: interrupted(path, task(seed=1)),
        lambda path: interrupted(path, task(epochs=2)),
        lambda path: interrupted(path, task(), identity="of the old teacher"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no checkpoint"),
    ],
    ids=["another seed", "another schedule", "another teacher", "empty", "another file"],
)
def test_a_checkpoint_of_another_training_is_set_aside(tmp_path, left):
    left(tmp_path / "run.pt")
    ends_as_if_alone(tmp_path / "run.pt")


def _without(state, part):
    del state["learners"]["network"][part]


def _reshaped(state, part):
    state["learners"]["network"][part] = torch.zeros(2, 2)


def _nan(state, part):
    state["learners"]["network"][part].fill_(float("nan"))


def _no_optimiser(state, part):
    state["optimisers"] = state["optimisers"][:-1]


def _optimiser_of_another(state, part):
    state["optimisers"][0]["param_groups"][0]["params"] = [0]


def _long_curve(state, part):
    state["curves"][0] = [{"epoch": epoch} for epoch in range(9)]


def _curve_with_a_gap(state, part):
    state["curves"][0][0]["epoch"] = 1


@pytest.mark.parametrize(
    "change",
    [
        _without,
        _reshaped,
        _nan,
        _no_optimiser,
        _optimiser_of_another,
        _long_curve,
        _curve_with_a_gap,
    ],
)
def test_a_checkpoint_that_does_not_fit_is_set_aside(tmp_path, change):
    """Readable, with the right digest, as another version of the code could have written it."""
    from paperlib.training.loop import _checkpoint

    path = tmp_path / "run.pt"
    interrupted(path, task())
    file = _checkpoint(path, [task()], "mine")
    state = file.load(torch.device("cpu"))
    change(state, "stages.0.0.conv1.weight")
    file.save(state)
    ends_as_if_alone(path)


# ------------------------------------------------------------- damaged records (kinds 8, 10 and 13)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def _folder(path):
    path.unlink()
    path.mkdir()


def _loop(path):
    path.unlink()
    path.symlink_to(path.name)


def _deep(path):
    path.write_text("[" * 100_000)


def _list(path):
    path.write_text("[1, 2]")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = [_cut, _folder, _loop, _deep, _list, _flip]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_stops_nobody(made, store, damage, capsys):
    """Readers warn and name it; the maker of its run sets it aside and makes it again."""
    damage(store.path(STUDENT))
    with pytest.warns(UserWarning, match=STUDENT.key):
        assert store.load(STUDENT) is None and not store.done(STUDENT)
    (problem,) = store.faults()
    assert str(store.path(STUDENT)) in problem
    with pytest.warns(UserWarning):
        sweep([STUDENT], store, jobs=1)
    assert store.done(STUDENT) and store.faults() == []
    assert len(list(store.runs.glob("*.rejected*"))) == 1


@pytest.mark.parametrize("damage", [_cut, _folder, _flip, lambda path: path.unlink()])
def test_lost_predictions_are_made_again(made, store, damage):
    damage(store.predictions_path(STUDENT))
    with pytest.raises(ValueError, match=STUDENT.key):
        store.predictions(STUDENT)
    assert store.done(STUDENT) and not store.whole(STUDENT)
    sweep([STUDENT], store, jobs=1)
    for one, other in zip(store.predictions(STUDENT), made.predictions(STUDENT), strict=True):
        assert (one == other).all()


def test_figures_of_a_damaged_record_leave_everything(store, tmp_path, monkeypatch, capsys):
    shutil.copytree(store.folder, tmp_path / "results/quick")
    committed = Store("quick", "results", tmp_path)
    (tmp_path / "results/CLAIMS.md").write_text("as it was")
    _cut(committed.path(STUDENT))
    before = {p: p.read_bytes() for p in (tmp_path / "results").rglob("*") if p.is_file()}
    monkeypatch.chdir(tmp_path)
    assert main(["figures"]) == 1
    found = capsys.readouterr().err
    assert STUDENT.key in found and found.count("\n") == 1
    assert {p: p.read_bytes() for p in (tmp_path / "results").rglob("*") if p.is_file()} == before


def test_figures_outside_the_repository_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["figures"]) == 1 and str(tmp_path) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_table_without_rows_leaves_no_old_file(made, tmp_path):
    store = Store("quick", root=tmp_path)
    store.tables.mkdir(parents=True)
    (store.tables / "qat.csv").write_text("method\nEWGS\n")
    written.write(store)
    assert not list(store.tables.glob("qat.*"))


def test_an_error_while_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_atomically(tmp_path / "file", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_the_first_error_is_told_where_its_record_cannot_be_written(store, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kinds, "build", failing)
    monkeypatch.setattr(Store, "save", full)
    monkeypatch.setattr(Store, "progress", property(lambda self: self.root))  # no log either
    with pytest.raises(SweepError, match="on fire"):
        sweep([replace(TEACHER, seed=4)], store, jobs=1)


def test_nothing_that_was_set_aside_is_overwritten(tmp_path):
    for text in ("one", "two", "three"):
        (tmp_path / "file").write_text(text)
        set_aside(tmp_path / "file")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"one", "two", "three"}


def test_weights_are_kept_only_if_they_are_those_of_the_record(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "results/quick")
    shutil.copytree(made.cache, tmp_path / "build/quick/cache-results")
    store = Store("quick", "results", tmp_path)
    _flip(store.weights(TEACHER))
    with pytest.raises(ValueError, match="weights"):
        store.keep(TEACHER)
    assert not store.kept_weights(TEACHER).exists()


# ---------------------------------------------------------------- the command line (9, 12) and text


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["run", "--bits", "-1"], "-1"),
        (["status", "--seeds", "-1"], "-1"),
        (["status", "--dataset", "nope"], "nope"),
        (["run", "--model", "nope"], "nope"),
        (["run", "--jobs", "-2"], "-2"),
        (["run", "--device", "tpu"], "tpu"),
    ],
)
def test_what_was_asked_wrongly_is_one_line(tmp_path, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    found = capsys.readouterr().err
    assert named in found and found.count("\n") == 1
    with pytest.raises(ValueError):
        main([*arguments, "--traceback"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_tree_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert main(["run", "--table", "tour"]) == 1
    finally:
        tmp_path.chmod(stat.S_IRWXU)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_place_where_no_folder_can_be_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "build").write_text("a file", encoding="utf-8")
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--table", "tour"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["status", "--table", "tour"]) == 0


def test_progress_of_any_path_and_encoding(tmp_path):
    """A folder whose name is no UTF-8: its surrogate cannot be encoded."""
    root = tmp_path / os.fsdecode(b"caf\xe9")
    store = Store("quick", root=root)
    store.log(f"in {root}")
    assert "caf" in store.progress.read_text(encoding="utf-8")


def test_text_of_a_record_is_no_html_and_no_cell(made, tmp_path):
    import pandas as pd

    found = markdown(pd.DataFrame({"<b>": ["<script>alert(1)</script>", "a|b\nc"]}))
    assert "<script" not in found and len(found.splitlines()) == 4
    assert found.splitlines()[3].count(" | ") == 0


@pytest.mark.parametrize("profile", ["../../x", "a/b", "", "."])
def test_a_profile_is_a_plain_name(profile):
    with pytest.raises(ValueError, match="profile"):
        Store(profile)


def test_a_record_is_json_of_finite_numbers(made):
    def refuse(name):
        raise AssertionError(name)

    for path in made.runs.glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


def test_the_environment_of_a_failure_is_recorded(store, monkeypatch):
    run = replace(STUDENT, seed=9)
    with pytest.raises(SweepError):
        sweep([run], store, executor=Broken())
    assert store.load(run)["environment"].keys() == execution.environment("cpu").keys()


def test_a_notebook_whose_kernel_dies_is_one_line(tmp_path, monkeypatch, capsys):
    from nbclient.exceptions import DeadKernelError

    from paperlib import reproduce

    def dies(*_):
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr(reproduce, "_execute", dies)
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "--table", "tour"]) == 1
    assert "Kernel died" in capsys.readouterr().err


def test_what_a_killed_process_was_writing_is_cleared(store):
    """SIGKILL between writing beside a file and renaming leaves the file beside it."""
    store.path(STUDENT).unlink()
    left = [
        folder / f".{STUDENT.key}.{kind}.123.tmp"
        for folder, kind in ((store.runs, "json"), (store.cache, "epoch.pt"))
    ]
    for path in left:
        path.write_bytes(b"half")
    with store.lock(STUDENT):
        assert store.begin(STUDENT)  # and that it had begun
    sweep([STUDENT], store, jobs=1)
    assert store.done(STUDENT) and not any(path.exists() for path in left)
