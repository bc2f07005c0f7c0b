"""The systems beside the paper, each in its smallest faithful form, on the same runs.

    related/<system>/method.py  what it computes; it alone takes torch, with files that are its part
                     study.py   which runs it needs: kinds of runs, an entry of `plan.TABLES`
                     report.py  its tables and figures, and its entry of `SYSTEMS`
    related/setups.py           the set-ups on which they are tried
    related/register.py         the entry point by which paperlib finds all this

Nothing in paperlib imports this package: it brings its own kinds of runs, losses, learners, data
sets, tables and notebooks through paperlib's registries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from paperlib.basics.registry import Registry


@dataclass(frozen=True)
class System:
    """A row of docs/related.md.

    title, paper  its name; authors, year, arXiv number.
    built, ours   what of it is here, and what is our choice because its source does not say.
    table         of `plan.TABLES`, with its notebook; also the name of the table of results.
    proof         the test of its formulas, file::function.
    headline      the table of results, never empty -> what came out, a sentence with its numbers
                  and their errors; "" where its rows compare with nothing yet.
    regime        in which regime of the score it was tried: with a confident or a soft teacher.
    category      of what distils and is no registered loss: what is compared, and who the teacher
                  is, as `paperlib.losses.registry` names them.
    """

    title: str
    paper: str
    built: str
    ours: str
    table: str
    proof: str
    headline: Callable[[pd.DataFrame], str]
    regime: str
    category: tuple[str, str] | None = None


SYSTEMS: Registry[System] = Registry("system")
