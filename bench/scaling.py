"""How seconds and memory grow with images, augmentations, classes and students."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from paperlib import scoring
from paperlib.basics.machine import count_cores
from paperlib.models import build

from . import training
from .machine import Setting, frozen, noise
from .measure import Contender, spread
from .workers import Group, alone

SIZES = {
    "images": ((100, 200), (1000, 2000, 4000, 8000), (10_000, 20_000, 40_000, 80_000)),
    "augmentations": ((2, 4), (2, 4, 8, 16), (2, 4, 8, 16)),
    "classes": ((10, 20), (10, 50, 200, 1000), (10, 50, 200, 1000)),
    "students": ((1, 2), (1, 2, 4, 8), (1, 2, 4, 8)),
}
WHAT = {
    "images": "one augmentation of N images scored (ResNet-8, RandAugment)",
    "augmentations": (
        "N augmentations of equal cost ranked (ResNet-8, RandAugment with and without CutMix)"
    ),
    "classes": "statistics of one pass over N classes (random logits, 5 replicates)",
    "students": "N students trained for a few steps (ResNet-8), a process a core",
}


def prepare_images(setting: Setting, count: int) -> Callable[[], None]:
    teacher, data = frozen(build("resnet8", 10), setting), noise(count, 10).to(setting.device)

    def run() -> None:
        scoring.evaluate(*scoring.predict(teacher, data, "randaugment"), 1.0, 20, 0)

    return run


def prepare_augmentations(setting: Setting, count: int) -> Callable[[], None]:
    """The same two candidates again and again: their number changes, their mean cost does not."""
    teacher, data = (
        frozen(build("resnet8", 10), setting),
        noise(setting.pick(100, 300, 3000), 10).to(setting.device),
    )
    two = ("randaugment", "randaugment+cutmix") * (count // 2)
    wanted = {f"number {k}": name for k, name in enumerate(two)}

    def run() -> None:
        scoring.rank(teacher, data, wanted, stddev_group=50, replicates=20)

    return run


def prepare_classes(setting: Setting, classes: int) -> Callable[[], None]:
    count = setting.pick(100, 2000, 20_000)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=generator).to(setting.device)
    labels = (torch.arange(count) % classes).to(setting.device)

    def run() -> None:
        scoring.evaluate(logits, labels, 1.0, 5, 0)

    return run


def prepare_worker(setting: Setting) -> Callable[[int], None]:
    """In a worker process: trains its share of the students, one after the other."""
    setting = replace(setting, small=True)  # ResNet-8, batches of 32
    data = noise(256 if setting.cuda else 128, 10).to(setting.device)

    def run(students: int) -> None:
        for seed in range(students):
            training.student(setting, data, training.LADDER[0], seed)()

    return run


def _train(group: Group, students: int) -> int:
    """Host memory, summed over the processes, after `students` were trained in them, as evenly as
    can be.
    """
    share, more = divmod(students, len(group.processes))
    answers = group(students=share) if share else []
    extra = group(more, students=1) if more else []
    return sum(a.host_bytes for a in (answers or extra))


PREPARE = {
    "images": prepare_images,
    "augmentations": prepare_augmentations,
    "classes": prepare_classes,
}


def run(setting: Setting, report: Callable[[str], Any]) -> dict[str, Any]:
    """The curves of the suite: sizes, seconds (median, least, greatest), peak memory (bytes over
    the imports).
    """
    sizes = {name: setting.pick(*choice) for name, choice in SIZES.items()}
    jobs = min(count_cores(), max(sizes["students"]))
    contenders = [
        Contender(f"{name} {n}", PREPARE[name](setting, n), 1)
        for name in PREPARE
        for n in sizes[name]
    ]
    with ExitStack() as stack:
        group = stack.enter_context(Group(jobs, prepare_worker, (setting,)))
        contenders += [
            Contender(f"students {n}", lambda n=n: _train(group, n), 1) for n in sizes["students"]
        ]
        rates = setting.rates(contenders, report)
    curves = []
    for name, counts in sizes.items():
        memory = []
        for n in counts:
            if name == "students":
                with Group(min(jobs, n), prepare_worker, (setting,)) as fresh:
                    memory.append(_train(fresh, n))
            else:
                answer = alone(PREPARE[name], (setting, n), setting.threads)
                memory.append(answer.device_bytes or answer.host_bytes)
        report(f"memory against {name}: {', '.join(f'{m / 1e6:.0f}' for m in memory)} MB")
        seconds = [spread([1 / rate for rate in rates[f"{name} {n}"]]) for n in counts]
        curves.append(
            {
                "name": name,
                "what": WHAT[name],
                "sizes": counts,
                "seconds": seconds,
                "memory": memory,
            }
        )
    return {"curves": curves, "settings": {"processes": jobs}}
