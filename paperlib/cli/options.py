"""Options that several commands share: an annotated type each, with help, completion and a check of
what is known by name.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from ..study import plan, profiles


def among(names: Callable[[], Sequence[str]], text: str, *flags: str) -> typer.models.OptionInfo:
    """An option whose value is one of these names, or empty where that is its default."""

    def known(context: typer.Context, value: str) -> str:
        if value and value not in names():
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names())}")
        return value

    def completed(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return typer.Option(*flags, help=text, callback=known, autocompletion=completed)


Profile = Annotated[str, among(lambda: tuple(profiles.PROFILES), "sizes: quick, cpu, lite, paper")]
Table = Annotated[
    str,
    among(
        plan.choices,
        "one table, or a group: all of the paper's, evidence (docs/experiments.md), related",
    ),
]
DataSet = Annotated[
    str, typer.Option("--dataset", help="only this data set; empty for all of the profile")
]
Model = Annotated[str, typer.Option(help="only this network; empty for all of the profile")]
Bits = Annotated[int, typer.Option(help="only students of so many bits; 0 for all")]
Seeds = Annotated[int, typer.Option(help="only the first so many seeds; 0 for all")]
Record = Annotated[
    bool, typer.Option("--record", help="work on the committed records in results/, not on build/")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
Jobs = Annotated[int, typer.Option(help="processes at a time; 0 chooses")]
Executor = Annotated[
    str,
    typer.Option(
        help="make the runs on a cluster (docs/clusters.md): dask://HOST:PORT, slurm, or "
        "slurm:NAME=VALUE,... with options of submitit; empty for this machine"
    ),
]

# of a teacher and images of one's own
Teacher = Annotated[
    str,
    typer.Option(
        help="timm:NAME, module:factory, a file.pt2 of torch.export, or a network of this package"
    ),
]
Weights = Annotated[
    str, typer.Option(help="a safetensors file; empty: timm's own, or what the factory gives")
]
Data = Annotated[
    str,
    typer.Option(
        help="a folder with a folder a class, an npz file of images and labels, or a known name"
    ),
]
Classes = Annotated[
    str, typer.Option(help="a file with a class a line, in the order of the teacher's outputs")
]
Order = Annotated[
    str,
    among(
        lambda: ("auto", "text", "number"),
        "of folders with numbers in their names; auto: the order in which the teacher knows more",
    ),
]
Subset = Annotated[
    bool, typer.Option("--subset", help="take only those outputs that there are pictures of")
]
Mean = Annotated[str, typer.Option(help="of the channels, 0 .. 1, by commas; empty: timm's own")]
Std = Annotated[str, typer.Option(help="the same of the standard deviations")]
Size = Annotated[
    int, typer.Option(min=0, help="side in pixels to resize to; 0: timm's own, or as they are")
]
PerClass = Annotated[int, typer.Option(min=0, help="at most so many pictures a class; 0: all")]
Workers = Annotated[int, typer.Option(min=-1, help="processes that read pictures; -1: one a core")]
Mirror = Annotated[
    bool | None,
    typer.Option(
        "--mirror/--no-mirror", help="whether a mirrored picture keeps its class: usually"
    ),
]
Precision = Annotated[
    str, among(lambda: ("float32", "bfloat16"), "of the forward pass; bfloat16 is faster")
]
Compiled = Annotated[
    bool,
    typer.Option(
        "--compiled",
        help="compile the teacher where the passes are long enough to pay for it: scores move in "
        "the sixth digit, with bfloat16 in the third",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="of every random draw")]
