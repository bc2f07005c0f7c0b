"""Training a 2-bit student with a teacher beside it, augmentation included, against bare networks
and a plain loop.
"""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from paperlib import data as datasets
from paperlib.basics.recipe import Recipe
from paperlib.losses import objective
from paperlib.models import build
from paperlib.models.precision import autocast
from paperlib.quantizers import fusing, initialise, quantize
from paperlib.runs import execution
from paperlib.training import Task
from paperlib.training.learners import Learners, Single, batches

from . import baseline
from .machine import Setting, ceilings, efficiency, effort, frozen, images, ready
from .measure import Contender, Row
from .workers import Group

AUGMENTATION = "randaugment+cutmix"
BATCH, BITS = 256, 2
WORKERS = (0, 2)  # of the baseline's DataLoader


@dataclass(frozen=True)
class Rung:
    """Our training with something switched on: fields of the recipe, and whether functions are
    compiled as in long runs.
    """

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    compiled: bool = False

    @property
    def precision(self) -> str:
        return self.recipe.get("precision", "float32")


# One thing after another. The last rung is what every other row calls "ours".
LADDER = (
    Rung("float32, eager"),
    Rung("+ fused quantizers", compiled=True),
    Rung("+ bfloat16", {"precision": "bfloat16"}, compiled=True),
)


def ladder(setting: Setting) -> tuple[Rung, ...]:
    """All rungs; for a test one, since compiling takes longer than a test may."""
    return LADDER[:1] if setting.small else LADDER


def batch_size(setting: Setting) -> int:
    return 32 if setting.small else BATCH


def image_count(setting: Setting) -> int:
    """Images of one repetition."""
    return setting.pick(64, 1024, 25_600)


def task(setting: Setting, data: datasets.Dataset, rung: Rung, seed: int = 0) -> Task:
    """What a student learns, with a teacher of random weights."""
    teacher = frozen(build(setting.model, len(data.classes)), setting)
    recipe = Recipe(
        epochs=720,
        batch=batch_size(setting),
        lr=1e-3,
        weight_decay=1e-4,
        quantizer_lr=1e-5,
        **rung.recipe,
    )
    return Task(data, AUGMENTATION, objective("kd"), recipe, seed, teacher)


def low_bit(task: Task) -> nn.Module:
    """A student that has seen its first batch."""
    model = quantize(task.teacher, "ewgs", BITS, BITS).to(memory_format=torch.channels_last)
    with autocast(task.data.train_images.device, task.recipe.precision):
        initialise(model, next(batches(task, 0))[0])
    return model


def epochs_of(setting: Setting, learners: Learners, rung: Rung) -> Callable[[], None]:
    """Each call is one epoch of `training.fit`, without its test."""
    numbers = itertools.count()

    def run() -> None:
        with fusing(rung.compiled):
            learners.epoch(next(numbers))
        setting.synchronise()

    return run


def student(
    setting: Setting, data: datasets.Dataset, rung: Rung, seed: int = 0
) -> Callable[[], None]:
    """One student ready to be trained: each call is one epoch over `data`."""
    learnt = task(setting, data, rung, seed)
    return epochs_of(setting, Single(low_bit(learnt), learnt, rung.compiled), rung)


def prepare_student(setting: Setting, rung: Rung) -> Callable[..., None]:
    """The same in a spawned process, for a `Group`: threads may be set anew for each call; `bare`
    runs the limit instead.
    """
    data = images(setting, image_count(setting))
    run, step = student(setting, data, rung), bare_step(setting, data)

    def call(threads: int, bare: bool = False) -> None:
        torch.set_num_threads(threads)
        if bare:
            step(rung.precision)
            setting.synchronise()
        else:
            run()

    return call


def prepare_plain(setting: Setting) -> Callable[..., None]:
    """The baseline in a process of its own, for a `Group`."""
    data = images(setting, image_count(setting))
    teacher = (
        build(setting.model, len(data.classes)).to(setting.device).eval().requires_grad_(False)
    )
    model = baseline.plain_student(teacher, BITS)
    policy = AUGMENTATION.partition("+")[0]
    loaders = {
        w: baseline.loader(data, policy, batch_size(setting), w, shuffle=True) for w in WORKERS
    }

    def call(workers: int) -> None:
        baseline.train_epoch(teacher, model, loaders[workers], len(data.classes), mix=True)
        setting.synchronise()

    return call


def bare_step(setting: Setting, data: datasets.Dataset) -> Callable[..., None]:
    """The limit: forward and backward of a full-precision network and forward of its teacher, on
    ready batches.
    """
    teacher = frozen(build(setting.model, len(data.classes)), setting)
    model = build(setting.model, len(data.classes), seed=1).to(
        device=setting.device, memory_format=torch.channels_last
    )
    pairs = ready(data, batch_size(setting))

    def run(precision: str = "float32", batches: int | None = None) -> None:
        for x, labels in pairs[:batches]:
            with autocast(setting.device, precision):
                with torch.no_grad():
                    teacher(x)
                loss = F.cross_entropy(model(x), labels)
            loss.backward()

    return run


BARE = "student and teacher alone on ready batches"


def bare_contenders(setting: Setting, data: datasets.Dataset) -> list[Contender]:
    run = bare_step(setting, data)
    count = len(data.train_images)
    return [Contender(f"{BARE}, {p}", lambda p=p: run(p), count) for p in ("float32", "bfloat16")]


def run(setting: Setting, report: Callable[[str], Any]) -> dict[str, Any]:
    """The rows of the suite and its settings."""
    count, cores = image_count(setting), execution.count_cores()
    data = images(setting, count)
    workers = WORKERS[:1] if setting.small else WORKERS
    processes = (
        0 if setting.cuda else cores
    )  # on a GPU several students at once are the suite `many`
    together, bare_together = (
        f"{what}, {processes} processes of one thread" for what in ("ours", BARE)
    )
    with ExitStack() as stack:
        plain = stack.enter_context(Group(1, prepare_plain, (setting,), setting.threads))
        contenders = bare_contenders(setting, data) + ceilings(setting)
        contenders += [Contender(_plain(w), lambda w=w: plain(workers=w), count) for w in workers]
        for rung in ladder(setting):
            contenders.append(Contender(_ours(rung), student(setting, data, rung), count))
        if processes > 1:
            group = stack.enter_context(
                Group(processes, prepare_student, (setting, ladder(setting)[-1]))
            )
            contenders.append(Contender(together, lambda: group(threads=1), processes * count))
            contenders.append(
                Contender(bare_together, lambda: group(threads=1, bare=True), processes * count)
            )
        report(f"{len(contenders)} contenders, {count} images each")
        rates = setting.rates(contenders, report)
    step = bare_step(setting, data)
    per_image = tuple(v / batch_size(setting) for v in effort(lambda: step(batches=1)))
    best = max(map(_plain, workers), key=lambda name: sum(rates[name]))
    rows = [
        Row(f"{BARE}, {p}", "limit", rates[f"{BARE}, {p}"], headline=True)
        for p in ("float32", "bfloat16")
    ]
    for rung in ladder(setting):
        limit = f"{BARE}, {rung.precision}"
        rows.append(
            Row(_ours(rung), "ours", rates[_ours(rung)], baseline=best, limit=limit, headline=True)
        )
    if together in rates:
        rows.append(Row(bare_together, "limit", rates[bare_together]))
        rows.append(
            Row(
                together, "ours", rates[together], baseline=best, limit=bare_together, headline=True
            )
        )
    rows += [Row(_plain(w), "baseline", rates[_plain(w)], headline=True) for w in workers]
    last = ladder(setting)[-1]
    rows += efficiency(
        rates,
        {f"{BARE}, {last.precision}": "limit", _ours(last): "ours"},
        per_image,
        last.precision,
    )
    return {
        "rows": [row.to_json() for row in rows],
        "settings": {
            "data": data.name,
            "model": setting.model,
            "batch": batch_size(setting),
            "images": count,
            "bits": BITS,
            "augmentation": AUGMENTATION,
            "processes": processes,
            "gflop_per_image": per_image[0],
            "gb_per_image_unfused": per_image[1],
        },
    }


def _ours(rung: Rung) -> str:
    return f"ours, {rung.name}"


def _plain(workers: int) -> str:
    return f"plain epoch, {workers} workers"
