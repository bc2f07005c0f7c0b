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
