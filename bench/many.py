"""Several students at once on one device: images per second in total."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from paperlib.basics.machine import count_cores
from paperlib.quantizers import fusing
from paperlib.training.learners import Single, Together
from paperlib.training.sharing import Attempts, epoch_in_turn, share_teacher

from . import training
from .machine import Setting, images
from .measure import Contender, Row, best
from .workers import Group

BEST = "bare pairs at best"
TURNS = (2, 4)  # students in turn
# (setting, numbers of students, stack that closes what it opens) -> contenders of ours and
# contenders of the limit
Way = Callable[[Setting, tuple[int, ...], ExitStack], tuple[list[Contender], list[Contender]]]


def processes(
    setting: Setting, numbers: tuple[int, ...], stack: ExitStack
) -> tuple[list[Contender], list[Contender]]:
    """A process each, which share the cores; started once, the first n of them are used."""
    group = stack.enter_context(
        Group(max(numbers), training.prepare_student, (setting, training.ladder(setting)[-1]))
    )
    count, cores = training.image_count(setting), count_cores()

    def contender(n: int, name: str, **how: bool) -> Contender:
        name = f"{n} {name}{'s' * (n > 1)}, a process each{', compiled' * how.get('compiled', 0)}"
        return Contender(name, lambda: group(n, threads=max(1, cores // n), **how), n * count)

    bare = [(n, c) for n in numbers for c in training.bare_ways(setting)]
    return [contender(n, "student") for n in numbers], [
        contender(n, "bare pair", bare=True, compiled=c) for n, c in bare
    ]


def packed(
    setting: Setting, numbers: tuple[int, ...], stack: ExitStack
) -> tuple[list[Contender], list[Contender]]:
    """One process, students stacked into one network of grouped convolutions:
    `training.fit_together`.
    """
    rung = training.fused(setting)
    data = images(setting, training.image_count(setting))
    contenders = []
    for n in numbers:
        first = training.task(setting, data, rung)
        tasks = [replace(first, seed=seed) for seed in range(n)]
        learners = Together([training.low_bit(task) for task in tasks], tasks, rung.compiled)
        run = training.epochs_of(setting, learners, rung)
        contenders.append(
            Contender(f"{n} student{'s' * (n > 1)}, packed", run, n * len(data.train_images))
        )
    return contenders, []


def in_turn(
    setting: Setting, numbers: tuple[int, ...], stack: ExitStack
) -> tuple[list[Contender], list[Contender]]:
    """One process, students over the same batches in turn: `training.fit_in_turn`."""
    rung = training.fused(setting)
    data = images(setting, training.image_count(setting))
    contenders = []
    for n in (1, *TURNS[: 1 if setting.small else None]):
        task = training.task(setting, data, rung)
        learners = {k: Single(training.low_bit(task), task, rung.compiled) for k in range(n)}
        share_teacher(learners.values())
        work = n * len(data.train_images)
        contenders.append(
            Contender(f"{n} student{'s' * (n > 1)}, in turn", _turns(learners, rung), work)
        )
    return contenders, []


def _turns(learners: dict[int, Single], rung: training.Rung) -> Callable[[], None]:
    numbers = itertools.count()

    def run() -> None:
        with fusing(rung.compiled):
            epoch_in_turn(learners, next(numbers), Attempts())

    return run


WAYS: dict[str, Way] = {"processes": processes, "packed": packed, "in turn": in_turn}


def run(setting: Setting, report: Callable[[str], Any]) -> dict[str, Any]:
    """The rows of the suite and its settings."""
    numbers = setting.pick(
        (1, 2), tuple(n for n in (1, 2, 4, 8, 16) if n <= count_cores()), (1, 2, 4, 8, 16)
    )
    data = images(setting, training.image_count(setting))
    with ExitStack() as stack:
        made = [make(setting, numbers, stack) for make in WAYS.values()]
        ours, bare = ([c for part in parts for c in part] for parts in zip(*made, strict=True))
        bare += training.bare_contenders(setting, data)
        alone = stack.enter_context(Group(1, training.prepare_plain, (setting,), setting.threads))
        plain = Contender(
            "plain epoch, 0 workers", lambda: alone(workers=0), len(data.train_images)
        )
        rates = setting.rates([plain, *bare, *ours], report)
    # The machine's limit is the best that bare networks reach in any number of processes, in our
    # precision.
    other = {"float32": "bfloat16", "bfloat16": "float32"}[training.ladder(setting)[-1].precision]
    rows = [Row(c.name, "limit", rates[c.name]) for c in bare]
    most = best([row.rounds for row in rows if f", {other}" not in row.name])
    rows.append(Row(BEST, "limit", most, headline=True))
    rows.append(Row(plain.name, "baseline", rates[plain.name], headline=True))
    rows += [
        Row(c.name, "ours", rates[c.name], baseline=plain.name, limit=BEST, headline=True)
        for c in ours
    ]
    settings = {
        "data": data.name,
        "model": setting.model,
        "images_per_student": len(data.train_images),
        "students": numbers,
    }
    return {"rows": [row.to_json() for row in rows], "settings": settings}
