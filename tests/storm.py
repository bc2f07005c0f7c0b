"""A storm over the store: python tests/storm.py, or make storm. Nothing finished may be lost.

Sweeps of a few small runs are killed, their files are damaged, their disk is full, their workers
die, two of them share one store. After each blow every record that was finished is still there,
byte by byte; after the storm a sweep ends with the records of a calm one. The exit status is 1 if
one blow broke that.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import torch

from paperlib.basics.recipe import Recipe
from paperlib.losses import OBJECTIVES, Entry
from paperlib.runs import kinds as kinds_of_runs
from paperlib.runs import sweep as sweeping
from paperlib.study.config import Data, Run, ScoreRun, StudentRun, TeacherRun, WalkRun
from paperlib.study.store import Store

DATA = Data("digits", train=60, test=30)
TEACHER = TeacherRun(DATA, "resnet8", Recipe(3, 20, 0.05, 1e-4, "sgd"))
ALONGSIDE = replace(TEACHER, seed=1, recipe=replace(TEACHER.recipe, threads=1))
STUDENT = StudentRun(DATA, TEACHER, "none", Recipe(3, 20, 1e-3, 0.0, quantizer_lr=1e-5), 2, 2)
SCORE = ScoreRun(DATA, TEACHER, ("none", "erasing+cutmix"), stddev_group=20, replicates=5)
RUNS = (
    TEACHER,
    ALONGSIDE,
    SCORE,
    STUDENT,
    replace(STUDENT, augmentation="augmix", teacher=ALONGSIDE),
    replace(STUDENT, loss="ft", loss_options={"init_epochs": 2}),
    WalkRun(DATA, TEACHER, ("none", "erasing"), (1, 3), views=20),
)
DEADLY = replace(STUDENT, loss="deadly")
CROWD = tuple(replace(STUDENT, seed=seed) for seed in range(1, 13))  # beside the deadly one
SIGNALS = (signal.SIGKILL,) * 3 + (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _deadly(student_logits, teacher_logits, targets, temperature) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ in ("__main__", "__mp_main__"):  # in this process and in its workers alone
    OBJECTIVES["deadly"] = Entry(_deadly, "response", "none", {"alpha": 1})


def results(store: Store) -> dict[str, tuple]:
    """What the runs determine: the records without times and places."""
    found = {}
    for path in sorted(store.runs.glob("*.json")):
        record = json.loads(path.read_bytes())
        result = json.loads(json.dumps(record.get("result")))
        for row in (result or {}).get("curve", []):
            for name in [name for name in row if name.endswith("seconds")]:
                del row[name]
        found[path.stem] = record["status"], record["config"], result, record.get("teacher")
    return found


def finished(store: Store) -> dict[str, bytes]:
    """The records of success, byte by byte."""
    found = {path.stem: path.read_bytes() for path in store.runs.glob("*.json") if path.is_file()}
    return {key: text for key, text in found.items() if b'"status": "done"' in text}


def child(work: Callable[[], None], log: Path) -> int:
    """Do some work in a forked process; returns its number. Its words go to a file."""
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1), os.dup2(file, 2)
        warnings.simplefilter("always")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def end(number: int, seconds: float = 120) -> int:
    """The exit status of a child; after so many seconds it is killed, and the status is -9."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return -9


@dataclass
class Storm:
    """What was tried, and what of it went wrong."""

    folder: Path
    luck: random.Random
    runs: tuple[Run, ...] = RUNS
    calm: dict[str, tuple] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def store(self, name: str = "") -> Store:
        """A fresh and empty store, or the one with this name."""
        name = name or f"store-{self.luck.randrange(16**8):08x}"
        return Store("quick", root=self.folder / name)

    def copy(self, source: Store) -> Store:
        target = self.store()
        shutil.copytree(source.root, target.root)
        return target

    def sweep(self, store: Store, runs: tuple[Run, ...] = (), jobs: int = 1) -> int:
        """Start a sweep in a process of its own; returns its number."""
        store.root.mkdir(parents=True, exist_ok=True)
        return child(
            lambda: sweeping.sweep(runs or self.runs, store, jobs=jobs), store.root / "words"
        )

    @contextmanager
    def blow(self, kind: str, store: Store) -> Iterator[None]:
        """One blow against a store: what was finished before must be there after it."""
        before = finished(store)
        self.tried[kind] = self.tried.get(kind, 0) + 1
        yield
        after = finished(store)
        for key, text in before.items():
            if after.get(key) != text:
                self.fault(kind, f"record {key} was finished and is not what it was", store)

    def fault(self, kind: str, text: str, store: Store) -> None:
        self.faults.append((kind, f"{text} ({store.root})"))
        print(f"LOST [{kind}] {self.faults[-1][1]}", flush=True)

    def settle(self, kind: str, store: Store) -> None:
        """After a storm a sweep ends well, with the records of the calm, and leaves nothing."""
        status = end(self.sweep(store))
        words = (store.root / "words").read_text(errors="replace").strip().splitlines()
        faults = len(self.faults)
        if status:
            last = words[-1] if words else "no word"
            self.fault(kind, f"the sweep afterwards ended with {status}: {last}", store)
        elif results(store) != self.calm:
            self.fault(kind, "the records differ from those of a calm sweep", store)
        leftovers = [p for p in store.root.rglob("*.tmp")]
        if leftovers:
            self.fault(kind, f"left behind: {', '.join(p.name for p in leftovers)}", store)
        if len(self.faults) == faults:
            shutil.rmtree(store.root)


def kills(storm: Storm, number: int) -> None:
    """One to three sweeps of one store, each killed at a random moment if it has not ended."""
    kind, store = "kill", storm.store()
    while storm.tried.get(kind, 0) < number:
        sweeps = [storm.sweep(store) for _ in range(storm.luck.choice((1, 1, 2, 3)))]
        for sweep in sweeps:
            time.sleep(storm.luck.uniform(0.02, 1.2))
            if _ended(sweep):
                if status := end(sweep):
                    storm.fault(kind, f"a sweep ended by itself with {status}", store)
                continue
            with storm.blow(kind, store):
                os.kill(sweep, storm.luck.choice(SIGNALS))
                end(sweep)
        if all(key in finished(store) for key in storm.calm):
            storm.settle(kind, store)
            store = storm.store()
    storm.settle(kind, store)


def _ended(number: int) -> bool:
    """Whether a child has ended; it can be waited for all the same."""
    return bool(os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT))


def half_made(storm: Storm) -> Store:
    """A store whose sweep was killed while it trained: checkpoints and records lie in it."""
    while True:
        store = storm.store()
        number = storm.sweep(store)
        want = storm.luck.randrange(3, 22)
        while not _ended(number):
            words = store.progress.read_text() if store.progress.exists() else ""
            if words.count("epoch") >= want and list(store.cache.glob("*.epoch.pt")):
                break
            time.sleep(0.002)
        os.kill(number, signal.SIGKILL)
        end(number)
        if list(store.cache.glob("*.epoch.pt")):
            return store
        shutil.rmtree(store.root)


def damage(path: Path, luck: random.Random, others: list[Path]) -> str:
    """Do something to a file; returns what."""
    content = bytearray(path.read_bytes())
    how = luck.choice(("flip", "flip", "flip", "flip", "cut", "empty", "zeros", "swap", "folder"))
    if how == "swap" and not others:
        how = "flip"
    if how == "flip" and content:
        place = luck.randrange(len(content))
        content[place] ^= 1 << luck.randrange(8)
    elif how == "cut":
        content = content[: luck.randrange(len(content) + 1)]
    elif how == "zeros":
        place = luck.randrange(len(content) + 1)
        content[place : place + 512] = bytes(len(content[place : place + 512]))
    elif how == "swap":
        content = bytearray(luck.choice(others).read_bytes())
    path.unlink()
    if how == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"" if how == "empty" else content)
    return how


def damages(storm: Storm, number: int) -> None:
    """Bits flipped and worse, in every kind of file, in finished and in half-made stores."""
    kinds = {
        "record": "runs/*.json",
        "predictions": "runs/*.predictions.safetensors",
        "weights": "cache/*.safetensors",
        "checkpoint": "cache/*.epoch.pt",
    }
    whole, halves = storm.store("calm"), [half_made(storm) for _ in range(6)]
    for turn in range(number):
        kind = list(kinds)[turn % len(kinds)]
        of = storm.luck.choice(halves) if kind == "checkpoint" else whole
        store = storm.copy(of)
        files = sorted(store.folder.glob(kinds[kind]))
        hit = storm.luck.choice(files)
        how = damage(hit, storm.luck, [path for path in files if path != hit])
        label = f"damage to {kind}"
        storm.tried[label] = storm.tried.get(label, 0) + 1
        storm.settle(f"{label}, {how}", store)


def full_disk(storm: Storm, number: int) -> None:
    """A file-size limit stands for a full disk: every write beyond it fails."""
    for _ in range(number):
        store = storm.store()
        store.root.mkdir(parents=True)
        limit = int(10 ** storm.luck.uniform(2.0, 5.6))

        def work(store: Store = store, limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            sweeping.sweep(storm.runs, store, jobs=1)

        with storm.blow("full disk", store):
            end(child(work, store.root / "words"))
        leftovers = [path.name for path in store.root.rglob("*.tmp")]
        if leftovers:
            storm.fault("full disk", f"left behind: {leftovers}", store)
        storm.settle("full disk", store)


def dying_workers(storm: Storm, number: int) -> None:
    """Workers of a pool are killed; the sweep itself goes on and loses nothing."""
    store = storm.store()
    sweep = storm.sweep(store, jobs=2)
    for _ in range(number):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and psutil.pid_exists(sweep):
            try:
                workers = [
                    p for p in psutil.Process(sweep).children() if "spawn_main" in str(p.cmdline())
                ]
            except psutil.Error:
                workers = []
            if workers:
                break
            time.sleep(0.05)
        if not workers or _ended(sweep):
            end(sweep)
            storm.settle("dying worker", store)
            store = storm.store()
            sweep = storm.sweep(store, jobs=2)
            continue
        with storm.blow("dying worker", store):
            time.sleep(storm.luck.uniform(0.0, 5.0))
            try:
                storm.luck.choice(workers).kill()
            except psutil.NoSuchProcess:
                pass
    end(sweep)
    storm.settle("dying worker", store)


def deadly_run(storm: Storm, number: int) -> None:
    """One run always kills its worker, and another sweep works on the same store."""
    for _ in range(number):
        store = storm.store()
        with storm.blow("run that kills its worker", store):
            first = storm.sweep(store, (DEADLY, *storm.runs, *CROWD), jobs=2)
            second = storm.sweep(store)
            if end(second):
                storm.fault("run that kills its worker", "the other sweep failed", store)
            if end(first) != 1:
                storm.fault("run that kills its worker", "its sweep did not say so", store)
        found = results(store)
        if found.pop(DEADLY.key, ("none",))[0] != "failed":
            storm.fault("run that kills its worker", "it is not recorded as failed", store)
        crowd = [found.pop(run.key, ("missing",))[0] for run in CROWD]
        if found != storm.calm or set(crowd) != {"done"}:
            storm.fault("run that kills its worker", f"others suffered: {crowd}", store)
        else:
            shutil.rmtree(store.root)


def main() -> int:
    """Let it storm; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="sweeps killed (default: 300)")
    parser.add_argument("--damages", type=int, default=60, help="files damaged (default: 60)")
    parser.add_argument("--full", type=int, default=12, help="full disks (default: 12)")
    parser.add_argument("--workers", type=int, default=6, help="workers killed (default: 6)")
    parser.add_argument("--deadly", type=int, default=1, help="runs that kill (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the blows (default: 0)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sweeping.count_cores = lambda: 1
    kinds_of_runs.load_data(DATA, "cpu")  # once, for every child
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    storm = Storm(folder, random.Random(args.seed))
    calm = storm.store("calm")
    if status := end(storm.sweep(calm)):
        print((calm.root / "words").read_text(), f"the calm sweep ended with {status}")
        return 1
    storm.calm = results(calm)
    print(f"a calm sweep of {len(RUNS)} runs took {time.perf_counter() - started:.1f} s")
    for phase, number in (
        (kills, args.kills),
        (damages, args.damages),
        (full_disk, args.full),
        (dying_workers, args.workers),
        (deadly_run, args.deadly),
    ):
        if number:
            phase(storm, number)
            print(f"{phase.__name__}: {time.perf_counter() - started:.0f} s", flush=True)
    for kind, number in storm.tried.items():
        lost = sum(each.startswith(kind) for each, _ in storm.faults)
        print(f"{kind:28} tried {number:4}   survived {number - lost:4}")
    if not storm.faults:
        shutil.rmtree(folder)
    return int(bool(storm.faults))


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main())
