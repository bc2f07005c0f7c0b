"""What each way to be faster brings alone, beside the same work without it, into
results/bench/levers.csv and .md.

    python -m bench.levers [--rounds 5]

ResNet-20 on CIFAR-10's shapes, on one thread and on all cores. About 12 minutes on 2 cores, half
of it compiling.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from paperlib import scoring
from paperlib.basics.files import write_atomically
from paperlib.basics.recipe import Recipe
from paperlib.losses import objective
from paperlib.models import build, channels_last
from paperlib.models.frozen import Frozen
from paperlib.models.precision import autocast
from paperlib.quantizers import fusing, initialise, quantize
from paperlib.reporting.style import markdown
from paperlib.runs.execution import count_cores, environment
from paperlib.training import Task, batches
from paperlib.training.learners import Single, modes

from .machine import PRECISIONS, Setting, frozen, images, instructions
from .measure import Contender, interleave, ratios, spread
from .workers import alone

MODEL, BATCH, TEACHERS, STUDENTS = "resnet20", 128, 4, 4
AUGMENTATION = "randaugment"
NOTE = """# Levers

`python -m bench.levers` on {device} ({instructions}), torch {torch}, {rounds} rounds in turns,
{model}. **times** is the rate over that without the lever, in the same rounds: median, least,
greatest. Compiling itself is not counted. **expected** was written down before it was measured.

"""


@dataclass(frozen=True)
class Lever:
    """One way to be faster: what it was expected to bring, what became of it, and a function of
    (precision) that gives contenders: first the work without it.
    """

    name: str
    expected: str
    kept: str
    contenders: Callable[[str], Sequence[Contender]]


def _forward(precision: str) -> list[Contender]:
    """The teacher's pass over ready batches."""
    setting = Setting("cpu", torch.get_num_threads())
    teacher = frozen(build(MODEL, 10), setting)
    x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), autocast("cpu", precision):
        networks = {
            "eager": teacher,
            "compiled": torch.compile(build(MODEL, 10).eval(), dynamic=False),
            "compiled and frozen": Frozen(teacher, x),
        }

    @torch.no_grad()
    def run(network: Callable) -> None:
        with autocast("cpu", precision):
            for _ in range(4):
                network(x)

    return [Contender(name, partial(run, each), 4 * BATCH) for name, each in networks.items()]


def _learner(precision: str) -> Single:
    """A 2-bit student with its teacher, which has seen its first batch."""
    data = images(Setting("cpu", torch.get_num_threads()), 4 * BATCH)
    teacher = frozen(build(MODEL, 10), Setting("cpu", 1))
    student = quantize(teacher, "ewgs", 2, 2).to(memory_format=torch.channels_last)
    recipe = Recipe(40, BATCH, 1e-3, 1e-4, precision=precision)
    task = Task(data, AUGMENTATION, objective("kd"), recipe, 0, teacher)
    with channels_last(student, teacher), autocast("cpu", precision):
        initialise(student, next(batches(task, 0))[0])
        return Single(student.to(memory_format=torch.channels_last), task)


def _step(precision: str) -> list[Contender]:
    """A student's step, augmentation apart: as written, quantizers fused, all in one graph."""
    learners = [_learner(precision) for _ in range(3)]
    learners[2].losses = torch.compile(learners[2].losses, dynamic=False)
    inputs = list(batches(learners[0].tasks[0], 0))

    def run(learner: Single, fused: bool) -> None:
        with fusing(fused), modes(learner.models, learner.tasks[0].teacher):
            for each in inputs:
                learner.step(*each)

    work = BATCH * len(inputs)
    names = "as written", "quantizers fused", "student and losses in one graph"
    return [
        Contender(name, partial(run, learner, name != names[0]), work)
        for name, learner in zip(names, learners, strict=True)
    ]


def _teachers(precision: str, compiled: bool) -> list[Contender]:
    """Several teachers score one augmentation: one after the other, and by the same views."""
    data = images(Setting("cpu", torch.get_num_threads()), 1000)
    networks = {str(seed): build(MODEL, 10, seed).eval() for seed in range(TEACHERS)}
    if compiled:
        x = data.network_input(data.train_images[:100])
        with torch.no_grad(), autocast("cpu", precision):
            networks = {name: Frozen(network, x) for name, network in networks.items()}
    how = {"augmentations": [AUGMENTATION], "precision": precision, "replicates": 0}
    work = TEACHERS * len(data.train_images)
    return [
        Contender("alone", lambda: [scoring.rank(n, data, **how) for n in networks.values()], work),
        Contender("together", lambda: scoring.rank(networks, data, **how), work),
    ]


LEVERS = (
    Lever("teacher's pass", "1.24", "`rank(compiled=True)`", _forward),
    Lever("student's step", "more than fused quantizers", "fused quantizers only", _step),
    Lever(
        f"{TEACHERS} teachers, eager",
        "1.1, the views' share of a pass",
        "`rank({name: teacher})`",
        partial(_teachers, compiled=False),
    ),
    Lever(
        f"{TEACHERS} teachers, compiled",
        "1.3, where passes are quicker",
        "`rank({name: teacher})`",
        partial(_teachers, compiled=True),
    ),
)


def prepare(number: int, precision: str, rounds: int) -> Callable[[], dict[str, tuple]]:
    """In a fresh process, since compiled code has its number of threads built in: rates of one
    lever.
    """
    return lambda: interleave(LEVERS[number].contenders(precision), rounds)


def main(folder: Path = Path("results/bench")) -> None:
    """Print a line for each rate, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows = []
    for number, lever in enumerate(LEVERS):
        for precision in PRECISIONS:
            for threads in sorted({1, count_cores()}):
                rates = alone(prepare, (number, precision, rounds), threads).value
                first = next(iter(rates.values()))
                for name, found in rates.items():
                    rate, times = spread(found)[0], ratios(found, first)
                    row = (lever.name, name, precision, threads, round(rate))
                    text = "{:.2f} ({:.2f} to {:.2f})".format(*times)
                    rows.append((*row, text, lever.expected, lever.kept))
                    print(*rows[-1], flush=True)
    columns = "lever", "how", "precision", "threads", "images/s", "times", "expected", "kept"
    table = pd.DataFrame(rows, columns=columns)
    where = environment("cpu")
    used = ", ".join(f"{i} for {p}" for p, i in instructions().items())
    note = NOTE.format(
        device=where["device"], instructions=used, torch=where["torch"], rounds=rounds, model=MODEL
    )
    write_atomically(folder / "levers.csv", table.to_csv(index=False))
    write_atomically(folder / "levers.md", note + markdown(table, 2))


if __name__ == "__main__":
    main()
