"""How an augmentation is picked, and the tables of what a pick brings. No torch here."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .config import Run, StudentRun
from .profiles import POOLS, SEVEN, Setup
from .store import Store


class Way(StrEnum):
    """How the augmentation of an arm is chosen. The value is its label in tables."""

    BASE = "base augmentation"
    OURS = "our pick"
    OURS_OF_SEVEN = "our pick of the 7 policies"
    MINIMAL = "minimal-variance pick"
    RELEASED = "released CIFAR-100 pick"
    MILDEST = "mildest"  # least error of the teacher
    STRONGEST = "strongest"


def result_of(run: Run, store: Store | None) -> dict[str, Any] | None:
    """The result of a run that is done, else None."""
    record = store.finished(run) if store else None
    return record["result"] if record else None


def picks(setup: Setup, store: Store | None) -> dict[Way, str]:
    """What to train with: way to choose -> augmentation. Without the score's record, only the ways
    that need none.

    There is no released pick on Tiny-ImageNet, where the released scripts have no CutMix.
    """
    found = {Way.BASE: "none"} | ({Way.RELEASED: setup.released} if setup.released else {})
    if result := result_of(setup.score, store):
        rows = result["scores"]
        seven = [row for row in rows if POOLS[SEVEN](row["augmentation"])]
        chosen = {
            Way.OURS: min(rows, key=lambda row: row["score"]),
            Way.OURS_OF_SEVEN: min(seven, key=lambda row: row["score"]),
            Way.MINIMAL: min(rows, key=lambda row: row["teacher_stddev"]),
        }
        if "error" in rows[0]:
            chosen[Way.MILDEST] = min(rows, key=lambda row: row["error"])
            chosen[Way.STRONGEST] = max(rows, key=lambda row: row["error"])
        found |= {way: row["augmentation"] for way, row in chosen.items()}
    return found


Arms = dict[str, tuple[str, Way]]  # column -> (loss, or "" for the row's own, way to choose)
Method = tuple[str, int, str]  # quantizer, bits of weights and activations, loss


def _arms(*ways: Way) -> Arms:
    """A column a way, each with the row's own loss."""
    return {way: ("", way) for way in ways}


QAT_ARMS: Arms = {
    "QAT alone": ("ce", Way.BASE),
    "+ SQAKD": ("sqakd", Way.BASE),
    "+ KD": ("kd", Way.BASE),
    **{
        f"+ KD, {way}": ("kd", way)
        for way in (Way.MINIMAL, Way.OURS, Way.OURS_OF_SEVEN, Way.RELEASED)
    },
}
KD_ARMS = _arms(Way.BASE, Way.MINIMAL, Way.OURS, Way.OURS_OF_SEVEN, Way.RELEASED)
# Of docs/experiments.md: in the set-ups with all students, and in those with a few.
REGIME_ARMS = _arms(Way.BASE, Way.OURS, Way.MINIMAL, Way.RELEASED)
OTHER_ARMS = _arms(Way.BASE, Way.OURS, Way.MINIMAL, Way.MILDEST, Way.STRONGEST)


@dataclass(frozen=True)
class Gains:
    """What augmentations bring to methods: a row a method, a column an arm. All students have one
    teacher, and each cell has all seeds.

    scored  the set-up whose score picks. setup  that of the students, under the same teacher.
    """

    scored: Setup
    setup: Setup
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    arms: Arms

    def students(self, store: Store | None) -> dict[Method, dict[str, list[StudentRun]]]:
        """Method -> arm -> a student a seed, of the arms whose augmentation is known. Arms may
        share students.
        """
        chosen = picks(self.scored, store)
        known = {arm: pair for arm, pair in self.arms.items() if pair[1] in chosen}
        return {
            (quantizer, bits, loss): {
                arm: [
                    self.setup.student(chosen[way], seed, own or loss, bits, method=quantizer)
                    for seed in self.seeds
                ]
                for arm, (own, way) in known.items()
            }
            for quantizer, bits, loss in self.methods
        }

    def runs(self, store: Store | None) -> Iterable[Run]:
        """The teacher, its score, and the students that are known."""
        students = (arms.values() for arms in self.students(store).values())
        cells = (cell for cells in students for cell in cells)
        return (self.setup.teacher, self.scored.score, *(run for cell in cells for run in cell))
