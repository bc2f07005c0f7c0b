"""Sweeps on a real Dask cluster of this machine and through submitit's local jobs: what dies takes
nothing with it, everything ends, and what does not fit is named before any work.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import submitit
from distributed import Client, LocalCluster

from bench import sweeps
from paperlib.basics.recipe import Recipe
from paperlib.runs import executors
from paperlib.runs import lease as leases
from paperlib.runs import sweep as sweeping
from paperlib.runs.executors import executor
from paperlib.runs.lease import Lease, Unfit, probe, versions
from paperlib.runs.sweep import SweepError, sweep
from paperlib.study.config import Data, ScoreRun, StudentRun, TeacherRun
from paperlib.study.store import Store

ROOT = Path(__file__).parents[2]
DATA = Data("digits", train=60, test=30)
TEACHER = TeacherRun(DATA, "resnet8", Recipe(2, 20, 0.05, 1e-4, "sgd"))
RECIPE = Recipe(6, 20, 1e-3, 0.0, quantizer_lr=1e-5)
STUDENT = StudentRun(DATA, TEACHER, "none", RECIPE, 2, 2)
SCORE = ScoreRun(DATA, TEACHER, ("none", "erasing+cutmix"), stddev_group=20, replicates=5)
RUNS = (TEACHER, SCORE, STUDENT, replace(STUDENT, seed=1))
LONG = replace(STUDENT, data=replace(DATA, train=400), recipe=replace(RECIPE, epochs=39))
DEADLY = replace(STUDENT, loss="deadly:ENTRY")
MODULE = """
import os, signal
from paperlib.losses import Entry
def deadly(student_logits, teacher_logits, targets, temperature):
    os.kill(os.getpid(), signal.SIGKILL)
ENTRY = Entry(deadly, "response", "none", {"alpha": 1})
"""
LAUNCHER = """
import signal, sys
from pathlib import Path
from paperlib.runs import executors
from paperlib.runs.sweep import sweep
from paperlib.study.store import Store
from test_clusters import LONG
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background
    executors.BEAT, executors.STALE = 1, 5
    store = Store("quick", root=Path(sys.argv[2]))
    try:
        with executors.executor(sys.argv[1], store, jobs=2) as found:
            sweep([LONG], store, executor=found)
    except (RuntimeError, KeyboardInterrupt) as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread, tmp_path_factory):
    """One thread here and in all workers, and modules that they find."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "deadly.py").write_text(MODULE)
    path = os.pathsep.join(map(str, (ROOT, folder, Path(__file__).parent)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.syspath_prepend(folder)
        patch.setattr(sweeping, "count_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What one process makes of RUNS."""
    store = Store("quick", root=tmp_path_factory.mktemp("made"))
    sweep(RUNS, store, jobs=1)
    return results(store)


@pytest.fixture
def store(tmp_path):
    return Store("quick", root=tmp_path / "a folder, x=1, ü")


def results(store):
    """What a run determines: the records without times and places."""
    found = {}
    for record in store.all():
        rest = {name: value for name, value in record.get("result", {}).items() if name != "curve"}
        curve = [
            {name: value for name, value in row.items() if "seconds" not in name}
            for row in record.get("result", {}).get("curve", [])
        ]
        found[record["key"]] = record["status"], rest, curve
    return found


class Cluster:
    """A scheduler and workers, each a command in a session of its own."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.spec, self.address = f"dask://127.0.0.1:{self.port}", f"tcp://127.0.0.1:{self.port}"

    def start(self, *command, **environment):
        command = [sys.executable, "-m", "dask", *command, "--no-dashboard"]
        with open(self.folder / "log", "ab") as log:
            how = {"stdout": log, "stderr": log, "start_new_session": True, "cwd": self.folder}
            self.started.append(subprocess.Popen(command, env=os.environ | environment, **how))
        return psutil.Process(self.started[-1].pid)

    def scheduler(self):
        return self.start("scheduler", "--host", "127.0.0.1", "--port", str(self.port))

    def worker(self, *options, **environment):
        """A nanny; its last child is the worker."""
        return self.start("worker", self.address, "--nthreads", "1", *options, **environment)

    def end(self):
        for process in self.started:
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A scheduler with two workers."""
    cluster = Cluster(tmp_path_factory.mktemp("pair"))
    cluster.head, cluster.workers = cluster.scheduler(), [cluster.worker(), cluster.worker()]
    yield cluster
    cluster.end()


@pytest.fixture
def lone(tmp_path):
    """A cluster of which a test starts what it needs."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.end()


def until(true, seconds=60):
    """Wait until something holds."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, "in vain"
        time.sleep(0.05)


def epochs(store):
    """Numbers of the students' epochs, as the progress file has them."""
    words = store.progress.read_text() if store.progress.exists() else ""
    return [int(number) for number in re.findall(r"student .*: epoch (\d+)/", words)]


def is_free(run, store):
    """Whether nobody works on a run."""
    with store.lock(run, wait=0) as free:
        return free


@contextlib.contextmanager
def launched(spec, store, folder):
    """A launcher that trains LONG, on from where it was; afterwards nobody works on it."""
    before, script = len(epochs(store)), folder / "launcher.py"
    script.write_text(LAUNCHER)
    command = [sys.executable, script, spec, store.root]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
    until(lambda: len(epochs(store)) >= before + 2 or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    numbers = epochs(store)
    assert not before or numbers[before] >= numbers[before - 1], "not resumed"
    assert sum(a >= b for a, b in pairwise(numbers[before:])) == 0
    started = time.monotonic()
    yield process
    process.words = process.communicate(timeout=50)[1].splitlines()
    until(lambda: is_free(LONG, store), 20)
    print(f"all ended after {time.monotonic() - started:.1f} s, exit status {process.returncode}")


def sweep_all(spec, store, made, runs=RUNS, blow=lambda: None):
    """Runs and a deadly one: that fails alone, the others are made once and as by one process."""
    with executor(spec, store, jobs=2) as found, ThreadPoolExecutor(1) as thread:
        running = thread.submit(sweep, (DEADLY, *runs), store, executor=found)
        until(lambda: len(epochs(store)) >= 2 or running.done())
        blow()
        with pytest.raises(SweepError) as caught:
            running.result()
    assert DEADLY.key[:8] in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert store.load(DEADLY)["status"] == "failed"
    words = store.progress.read_text()
    assert all(words.count(f"min left] {run.name}: ") == 1 for run in runs)
    store.path(DEADLY).unlink()
    assert results(store) == {run.key: made[run.key] for run in runs}
    assert not list(store.root.rglob("*.tmp")) and not list(store.root.rglob("lease-*"))


# ------------------------------------------------------------------------------------------ Dask


def test_a_dask_cluster_makes_the_records_of_one_process_though_a_worker_is_killed(
    pair, store, made
):
    sweep_all(pair.spec, store, made, blow=lambda: pair.workers[0].children()[-1].kill())


def test_when_launcher_or_scheduler_ends_so_does_all_work_and_a_restart_resumes(
    pair, store, tmp_path
):
    with launched(pair.spec, store, tmp_path) as process:
        process.kill()
    with launched(pair.spec, store, tmp_path) as process:
        pair.head.kill()
    assert len(process.words) == 1 and str(pair.port) in process.words[0]
    pair.end()
    pair.scheduler(), pair.worker()
    with launched(pair.spec, store, tmp_path) as process:
        process.send_signal(signal.SIGINT)
    assert len(process.words) == 1 and "KeyboardInterrupt" in process.words[0]


class Silent:
    """A cluster whose scheduler answers no more."""

    def __init__(self):
        self.given_up = threading.Event()

    def answers(self):
        return False

    def give_up(self):
        self.given_up.set()


def test_a_cluster_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "BEAT", 0.05)
    monkeypatch.setattr(executors, "STALE", 0.5)
    (tmp_path / "lease").touch()
    lease, cluster, over = (
        Lease(tmp_path / "lease", {}, (ROOT, True), "cpu", 1),
        Silent(),
        threading.Event(),
    )
    thread = threading.Thread(target=executors._beat, args=(lease, cluster, over))
    thread.start()
    assert not cluster.given_up.wait(0.3) and cluster.given_up.wait(10)
    over.set()
    thread.join()


# -------------------------------------------------------------------------------------- submitit


def test_submitits_jobs_make_the_records_of_one_process(store, made, monkeypatch):
    monkeypatch.setattr(submitit.core.core.Job, "_results_timeout_s", 1)  # a job that died: 15 s
    sweep_all("local:timeout_min=5", store, made, (TEACHER, STUDENT))


def test_jobs_end_when_their_launcher_does(store, tmp_path):
    with launched("local", store, tmp_path) as process:
        process.kill()


def test_without_slurm_there_is_one_line(store, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "sbatch" in refused("slurm", store)


# ------------------------------------------------------------------------------- before any work


def refused(spec, store):
    """The line with which an executor is refused, in a minute; nothing is left behind."""
    started = time.monotonic()
    with pytest.raises((RuntimeError, ValueError)) as caught, executor(spec, store):
        pass
    print(f"refused after {time.monotonic() - started:.1f} s: {caught.value}")
    assert time.monotonic() - started < 60 and len(str(caught.value).splitlines()) == 1
    assert not list(store.root.rglob("lease-*"))
    return str(caught.value)


@pytest.mark.parametrize("spec", ["ray://here:1", "dask://here", "dask", "local:x", "local:no=1"])
def test_a_text_that_names_no_executor_is_refused(store, spec):
    refused(spec, store)


def test_what_does_not_fit_is_named(lone, store, tmp_path, monkeypatch):
    """No scheduler, another host, no workers; workers of another source, without the package, and
    one that does not answer.
    """
    monkeypatch.setattr(executors, "ANSWER", 6)
    assert str(lone.port) in refused(lone.spec, store)
    assert "no.such.host.invalid" in refused("dask://no.such.host.invalid:1", store)
    lone.scheduler()
    until(lambda: "has no workers" in refused(lone.spec, store))
    monkeypatch.setattr(executors, "ANSWER", 40)
    for name in ("other", "none"):
        (tmp_path / name / "paperlib").mkdir(parents=True)
    (tmp_path / "none/paperlib/__init__.py").write_text("raise ImportError('not here')")
    for package in ("paperlib", "related"):
        shutil.copytree(ROOT / package, tmp_path / "other" / package, dirs_exist_ok=True)
    (tmp_path / "other/paperlib/more.py").touch()
    for name, fault in (("other", "source"), ("none", "not here"), ("silent", "answer")):
        places = {} if name == "silent" else {"PYTHONPATH": str(tmp_path / name)}
        worker = lone.worker("--no-nanny", **places)
        with Client(lone.address) as client:
            client.wait_for_workers(1, timeout=40)
            (address,) = client.scheduler_info()["workers"]
            if name == "silent":
                monkeypatch.setattr(executors, "ANSWER", 8)
                worker.suspend()
            said = refused(lone.spec, store)
            assert address in said and fault in said
            worker.kill()
            until(lambda client=client: not client.scheduler_info()["workers"])


def test_a_folder_that_is_not_shared_or_does_not_lock_is_refused(tmp_path, monkeypatch):
    lease = Lease(tmp_path / "lease", versions(), (tmp_path / "data", False), "cpu", 1)
    with pytest.raises(Unfit, match=re.escape(str(tmp_path))), leases.lock(lease):
        probe(lease, "of-the-launcher")  # which the worker does not see
    (tmp_path / "of-the-launcher").touch()
    with pytest.raises(Unfit, match="lock"):
        probe(lease, "of-the-launcher")  # whose lock anybody gets
    with leases.lock(lease):
        probe(lease, "of-the-launcher")
        with pytest.raises(Unfit, match="data"):
            probe(replace(lease, data=(tmp_path / "data", True)), "of-the-launcher")

    def fails(*_):
        raise OSError(38, "no locks here")

    monkeypatch.setattr("fcntl.flock", fails)
    with pytest.raises(Unfit, match="lock"), leases.lock(lease):
        pass
    with pytest.raises(RuntimeError, match="lock"), executor("local", Store("a", root=tmp_path)):
        pass


@pytest.mark.parametrize("cluster, runs", [(sweeps.threads, 10_000), (sweeps.dask, 1000)])
def test_of_thousands_of_runs_over_a_hundred_workers_none_is_lost_or_made_twice(
    tmp_path, cluster, runs
):
    """Runs that compute nothing; `python -m bench.sweeps` has what they cost."""
    with cluster() as found:
        cost = sweeps.measure(found, runs, tmp_path)
    assert (cost["records"], cost["twice"]) == (runs, 0)
    assert cost["launcher ms"] < 10, "as it would be if a step looked at all runs for each"


def test_a_worker_that_comes_later_and_does_not_fit_stops_the_sweep(store, monkeypatch):
    """Which would otherwise fail run after run."""

    def unfit(*_):
        raise Unfit("on a node has torch 1.0")

    monkeypatch.setattr(executors, "_in_process", unfit)
    with (
        LocalCluster(8, processes=False, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        lease = Lease(store.cache / "lease", {}, (ROOT, True), "cpu", 1)
        found = executors._Workers(client, lease, "here")
        with pytest.raises(CancelledError):
            sweep(RUNS, store, executor=found)
        assert "torch 1.0" in found.problem
