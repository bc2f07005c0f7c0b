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
from paperlib.basics.machine import count_cores
from paperlib.basics.recipe import Recipe
from paperlib.losses import objective
from paperlib.models import build
from paperlib.models.frozen import Frozen
from paperlib.models.precision import autocast
from paperlib.quantizers import fusing, initialise, quantize
from paperlib.training import Task
from paperlib.training.learners import Learners, Single, batches

from . import baseline
from .machine import PRECISIONS, Setting, ceilings, efficiency, effort, frozen, images, ready
from .measure import Contender, Row, best
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


# One thing after another, and one graph in float32 beside. The last rung is what every other row
# calls "ours".
LADDER = (
    Rung("float32, eager"),
    Rung("+ fused quantizers", compiled=True),
    Rung("float32, one graph", {"one_graph": True}, compiled=True),
    Rung("+ bfloat16", {"precision": "bfloat16"}, compiled=True),
    Rung("+ one graph", {"precision": "bfloat16", "one_graph": True}, compiled=True),
)


def ladder(setting: Setting) -> tuple[Rung, ...]:
    """All rungs; for a test one, since compiling takes longer than a test may."""
    return LADDER[:1] if setting.small else LADDER


def fused(setting: Setting) -> Rung:
    """bfloat16 without one graph, for students that share something outside it."""
    return LADDER[0] if setting.small else LADDER[3]


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

    def call(threads: int, bare: bool = False, compiled: bool = False) -> None:
        torch.set_num_threads(threads)
        if bare:
            step(rung.precision, compiled=compiled)
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
    ready batches. What is compiled is so at its first call.
    """
    teacher = frozen(build(setting.model, len(data.classes)), setting)
    model = build(setting.model, len(data.classes), seed=1).to(
        device=setting.device, memory_format=torch.channels_last
    )
    pairs = ready(data, batch_size(setting))
    made: dict[tuple[str, bool], tuple[nn.Module, nn.Module]] = {}

    def networks(precision: str, compiled: bool) -> tuple[nn.Module, nn.Module]:
        if not compiled:
            return teacher, model
        if (precision, compiled) not in made:
            with torch.no_grad():
                made[precision, compiled] = (
                    Frozen(teacher, pairs[0][0]),
                    torch.compile(model, dynamic=False),
                )
        return made[precision, compiled]

    def run(precision: str = "float32", batches: int | None = None, compiled: bool = False) -> None:
        with autocast(setting.device, precision):
            teaches, learns = networks(precision, compiled)
        for x, labels in pairs[:batches]:
            with autocast(setting.device, precision):
                with torch.no_grad():
                    teaches(x)
                loss = F.cross_entropy(learns(x), labels)
            loss.backward()

    return run


BARE = "student and teacher alone on ready batches"


def bare_name(precision: str, compiled: bool = False) -> str:
    return f"{BARE}, {precision}{', compiled' * compiled}"


def bare_ways(setting: Setting) -> tuple[bool, ...]:
    """Whether compiled: not in a test, which may not take as long as that does."""
    return (False,) if setting.small else (False, True)


def bare_contenders(setting: Setting, data: datasets.Dataset) -> list[Contender]:
    run, count = bare_step(setting, data), len(data.train_images)
    return [
        Contender(bare_name(p, c), lambda p=p, c=c: run(p, compiled=c), count)
        for p in PRECISIONS
        for c in bare_ways(setting)
    ]


def run(setting: Setting, report: Callable[[str], Any]) -> dict[str, Any]:
    """The rows of the suite and its settings."""
    count, cores = image_count(setting), count_cores()
    data = images(setting, count)
    workers = WORKERS[:1] if setting.small else WORKERS
    processes = (
        0 if setting.cuda else cores
    )  # on a GPU several students at once are the suite `many`
    together = f"ours, {processes} processes of one thread"
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
            whole = processes * count
            contenders.append(Contender(together, lambda: group(threads=1), whole))
            contenders += [
                Contender(
                    _apart(processes, c), lambda c=c: group(threads=1, bare=True, compiled=c), whole
                )
                for c in bare_ways(setting)
            ]
        report(f"{len(contenders)} contenders, {count} images each")
        rates = setting.rates(contenders, report)
    step = bare_step(setting, data)
    per_image = tuple(v / batch_size(setting) for v in effort(lambda: step(batches=1)))
    fastest = max(map(_plain, workers), key=lambda name: sum(rates[name]))
    rows = []
    for precision in PRECISIONS:
        rows += _limits(rates, [bare_name(precision, c) for c in bare_ways(setting)], precision)
    for rung in ladder(setting):
        how = {"baseline": fastest, "limit": _limit(rung.precision), "headline": True}
        rows.append(Row(_ours(rung), "ours", rates[_ours(rung)], **how))
    if together in rates:
        apart = f"{processes} processes of one thread"
        rows += _limits(rates, [_apart(processes, c) for c in bare_ways(setting)], apart)
        how = {"baseline": fastest, "limit": _limit(apart), "headline": True}
        rows.append(Row(together, "ours", rates[together], **how))
    rows += [Row(_plain(w), "baseline", rates[_plain(w)], headline=True) for w in workers]
    last = ladder(setting)[-1]
    rates |= {row.name: row.rounds for row in rows}
    shown = {_limit(last.precision): "limit", _ours(last): "ours"}
    rows += efficiency(rates, shown, per_image, last.precision, fused=not setting.small)
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


def _limits(rates: dict[str, tuple[float, ...]], names: list[str], what: str) -> list[Row]:
    """The bare rows, and the best of them in each round."""
    bare = [Row(name, "limit", rates[name]) for name in names]
    return [*bare, Row(_limit(what), "limit", best([rates[n] for n in names]), headline=True)]


def _limit(what: str) -> str:
    return f"{BARE} at best, {what}"


def _apart(processes: int, compiled: bool) -> str:
    return bare_name(f"{processes} processes of one thread", compiled)


def _ours(rung: Rung) -> str:
    return f"ours, {rung.name}"


def _plain(workers: int) -> str:
    return f"plain epoch, {workers} workers"
