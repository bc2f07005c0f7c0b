"""Commands on a teacher and images of one's own."""

import json
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as given

EXAMPLES = 4  # pictures of each candidate that the page shows
WIDE = 10_000  # characters, more than any table has


def rank(
    teacher: given.Teacher,
    data: given.Data,
    weights: given.Weights = "",
    classes: given.Classes = "",
    order: given.Order = "auto",
    subset: given.Subset = False,
    candidates: Annotated[
        str, typer.Option(help="names, or module:name of your own, by commas; empty: the sixteen")
    ] = "",
    budget: Annotated[
        float,
        typer.Option(min=0, max=1, help="share of all passes that a race may spend; 0: no race"),
    ] = 0.0,
    mean: given.Mean = "",
    std: given.Std = "",
    size: given.Size = 0,
    per_class: given.PerClass = 0,
    mirror: given.Mirror = None,
    batch: Annotated[int, typer.Option(min=1, help="images a forward pass")] = 100,
    precision: given.Precision = "float32",
    compiled: given.Compiled = False,
    device: given.Device = "cpu",
    workers: given.Workers = -1,
    seed: given.Seed = 0,
    out: Annotated[
        str, typer.Option(help="a folder for ranking.csv, ranking.json and index.html")
    ] = "",
) -> int:
    """Rank augmentations for your own teacher and images, best first."""
    from rich.console import Console

    from ..augment.showing import jpeg, strips
    from ..basics.files import make_folder
    from ..scoring import rank as rank_all
    from ..scoring import rank_within
    from .bringing import Wanted, bring, chosen

    # In a narrow terminal rich would leave out numbers; the terminal itself breaks the lines.
    console = Console(width=WIDE, soft_wrap=True, highlight=False, markup=False)
    names = chosen(candidates)
    wanted = Wanted(
        teacher, weights, data, classes, order, subset, mean, std, size, per_class, mirror, device,
        workers, seed,
    )  # fmt: skip
    if out:
        make_folder(Path(out))
    brought = bring(wanted, console.print)
    how = {"mean": brought.look.mean, "std": brought.look.std, "mirror": brought.mirror}
    how |= {"seed": seed, "batch": batch, "precision": precision, "compiled": compiled}
    how |= {"workers": brought.workers}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if budget:
            table = rank_within(brought.teacher, brought.data, names, budget, **how)
        else:
            table = rank_all(brought.teacher, brought.data, names, **how)
    said = list(dict.fromkeys(str(each.message) for each in caught))
    for text in said:
        warnings.warn(text, stacklevel=1)
    _print(console, table)
    if out:
        images, labels = brought.examples(EXAMPLES)
        shown = strips(names, images, labels, len(brought.classes), seed, brought.mirror)
        _write(Path(out), table, _facts(brought, teacher, said), shown | {"": jpeg(images)})
        console.print(f"written: {out}/ranking.csv, ranking.json and index.html")
    return 0


def _print(console: Any, table: Any) -> None:
    from rich import box
    from rich.table import Table

    from ..reporting.ranking import cells, race, summary

    rows = cells(table, ("score", "behind"))
    shown = Table(box=box.SIMPLE_HEAD)
    for name in rows[0]:
        left = name in ("augmentation", "state")
        shown.add_column(name, justify="left" if left else "right")
    for row in rows:
        shown.add_row(*row.values())
    console.print(shown, soft_wrap=False)
    console.print(summary(table))
    if text := race(table):
        console.print(text)


def _facts(brought: Any, teacher: str, said: list[str]) -> dict[str, Any]:
    """What the page and ranking.json say beside the table."""
    import torch

    labels = brought.labels
    counts = torch.bincount(labels, minlength=len(brought.classes)).tolist()
    names = enumerate(zip(brought.classes, counts, strict=True))
    return {
        "teacher": teacher,
        "images": len(labels),
        "classes": [{"name": name, "output": k, "images": n} for k, (name, n) in names],
        "accuracy": brought.glance.accuracy,
        "confidence": brought.glance.confidence,
        "looked_at": len(brought.glance.labels),
        "seen": list(brought.seen),
        "skipped": [list(each) for each in brought.skipped],
        "warnings": said,
        "command": f"paperlib {shlex.join(sys.argv[1:])}",
        "versions": f"Python {sys.version.split()[0]}, torch {torch.__version__}",
    }


def _write(folder: Path, table: Any, facts: dict[str, Any], pictures: dict[str, bytes]) -> None:
    from ..basics.files import write_atomically
    from ..reporting.ranking import page

    rows = json.loads(table.to_json(orient="records", double_precision=15))
    write_atomically(folder / "ranking.csv", table.to_csv(index=False))
    ranking = json.dumps(facts | {"table": rows, "race": table.attrs}, indent=1, ensure_ascii=False)
    write_atomically(folder / "ranking.json", ranking + "\n")
    write_atomically(folder / "index.html", page(table, facts, pictures))


COMMANDS: tuple[Callable[..., int], ...] = (rank,)
