"""Which runs each table and figure needs, per profile. No torch here.

Some students train with what a score picked. Which those are is known once the score's record is
there: functions that need to know take the store that holds it, and `stages` gives the runs in the
order in which they become known.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from statistics import stdev

from pandas import DataFrame

from ..basics.recipe import PRECISIONS
from .config import (
    AblationRun,
    BudgetRun,
    Data,
    HeldOutRun,
    Run,
    ScoreRun,
    StudentRun,
    TeacherRun,
    TourRun,
    WalkRun,
)
from .profiles import CANDIDATES, CUTMIX, POOLS, REGIMES, SEVEN, SIZES, Setup, setups
from .store import Store


def _tour(profile: str, store: Store | None) -> tuple[Run, ...]:
    first = setups(profile)[0]
    return (first.teacher, tour(profile), first.score)


def tour(profile: str) -> TourRun:
    """What notebook 00 shows, for the first set-up of a profile."""
    first = setups(profile)[0]
    return TourRun(
        first.data, first.teacher, CANDIDATES, image=20, seed=29
    )  # a draw in which every policy shows


def _ranking(profile: str, store: Store | None) -> tuple[Run, ...]:
    return tuple(
        run for setup in setups(profile) for run in (setup.teacher, setup.score, *setup.students)
    )


def _definitions(profile: str, store: Store | None) -> tuple[Run, ...]:
    return (*_ranking(profile, store), *(score_ablation(setup) for setup in setups(profile)))


@dataclass(frozen=True)
class Comparison:
    """Students that differ in seed and precision only, for each of two augmentations."""

    setup: Setup
    augmentations: tuple[str, ...] = ("none", "randaugment+cutmix")
    seeds: tuple[int, ...] = (0, 1, 2)

    def students(self, precision: str, augmentation: str) -> list[StudentRun]:
        s = self.setup
        recipe = replace(s.student_recipe, precision=precision)
        return [s.student(augmentation, seed, recipe=recipe) for seed in self.seeds]


def precision_comparison(profile: str) -> Comparison:
    """The first set-up of a profile, smaller on a CPU: on CIFAR-10 with fewer images and more
    epochs.
    """
    first, sizes = setups(profile)[0], SIZES[profile].precision
    if sizes:
        images, epochs = sizes
        recipe = replace(first.student_recipe, epochs=epochs)
        data = Data(first.data.name, train=images)
        teacher_data = first.teacher.data
        first = replace(first, data=data, student_recipe=recipe, teacher_data=teacher_data)
    return Comparison(first)


def races(profile: str) -> list[BudgetRun]:
    """The ranking of the first set-up's candidates within a tenth of the forward passes, from three
    random orders.
    """
    first = setups(profile)[0]
    return [BudgetRun(first.data, first.teacher, CANDIDATES, seed=seed) for seed in range(3)]


def short_score(profile: str) -> ScoreRun:
    """The first set-up's score with the teacher in bfloat16."""
    return replace(setups(profile)[0].score, precision="bfloat16")


def _speed(profile: str, store: Store | None) -> tuple[Run, ...]:
    first, pairs = setups(profile)[0], precision_comparison(profile)
    students = [
        run for p in PRECISIONS for name in pairs.augmentations for run in pairs.students(p, name)
    ]
    return (first.teacher, first.score, short_score(profile), *races(profile), *students)


QUANTIZERS = (
    "ewgs",
    "lsq",
    "lsq+",
    "pact",
    "dorefa",
    "ternary",
    "lsq_released",
    "pact_released",
    "dorefa_released",
)
LOSSES = (
    "kd",
    "ce",
    "sqakd",
    "dkd",
    "fitnet",
    "at",
    "nst",
    "sp",
    "rkd",
    "cc",
    "vid",
    "fsp",
    "fsp_active",
    "ft",
    "pkt",
    "kdsvd",
    "crd",
    "cktf",
)


@dataclass(frozen=True)
class Methods:
    """Students that differ in quantizer, or in loss, and in seed; crop and mirror alone. Both lists
    hold EWGS + KD.
    """

    setup: Setup
    seeds: tuple[int, ...]

    def _students(self, method: str, loss: str) -> list[StudentRun]:
        return [self.setup.student("none", seed, loss, method=method) for seed in self.seeds]

    @property
    def quantizers(self) -> dict[str, list[StudentRun]]:
        """Each quantizer with plain KD."""
        return {name: self._students(name, "kd") for name in QUANTIZERS}

    @property
    def losses(self) -> dict[str, list[StudentRun]]:
        """Each loss with EWGS."""
        return {name: self._students("ewgs", name) for name in LOSSES}


def _small(profile: str, setup: Setup) -> tuple[Setup, tuple[int, ...]]:
    """A set-up with a budget short enough for many students, under the same teacher, and the seeds
    of those.
    """
    short = SIZES[profile].short
    if short is None:
        return setup, setup.seeds
    data = replace(setup.data, train=short.train, test=short.test)
    recipe = replace(setup.student_recipe, epochs=short.epochs)
    small = replace(setup, data=data, student_recipe=recipe, teacher_data=setup.teacher.data)
    return small, short.seeds


def methods(profile: str) -> Methods:
    """The first set-up of a profile; on a CPU with a short budget, which is the same for all."""
    return Methods(*_small(profile, setups(profile)[0]))


def _methods(profile: str, store: Store | None) -> tuple[Run, ...]:
    comparison = methods(profile)
    lists = (*comparison.quantizers.values(), *comparison.losses.values())
    return (comparison.setup.teacher, *(run for runs in lists for run in runs))


class Way(StrEnum):
    """How the augmentation of an arm is chosen; the value is its label in tables."""

    BASE = "base augmentation"
    OURS = "our pick"
    OURS_OF_SEVEN = "our pick of the 7 policies"
    MINIMAL = "minimal-variance pick"
    RELEASED = "released CIFAR-100 pick"
    MILDEST = "mildest"  # least error of the teacher
    STRONGEST = "strongest"


def picks(setup: Setup, store: Store | None) -> dict[Way, str]:
    """What to train with: name of a way to choose -> augmentation. Without the score's record, what
    needs none.

    On Tiny-ImageNet, where the released scripts have no CutMix, there is no released pick.
    """
    found = {Way.BASE: "none"} | ({Way.RELEASED: setup.released} if setup.released else {})
    if store is not None and (record := store.finished(setup.score)):
        rows = record["result"]["scores"]
        found[Way.OURS] = min(rows, key=lambda row: row["score"])["augmentation"]
        seven = (row for row in rows if POOLS[SEVEN](row["augmentation"]))
        found[Way.OURS_OF_SEVEN] = min(seven, key=lambda row: row["score"])["augmentation"]
        found[Way.MINIMAL] = min(rows, key=lambda row: row["teacher_stddev"])["augmentation"]
        if "error" in rows[0]:
            found[Way.MILDEST] = min(rows, key=lambda row: row["error"])["augmentation"]
            found[Way.STRONGEST] = max(rows, key=lambda row: row["error"])["augmentation"]
    return found


# Columns of the two tables: name -> (loss, or "" for the row's own, way to choose the
# augmentation).
QAT_ARMS = {
    "QAT alone": ("ce", Way.BASE),
    "+ SQAKD": ("sqakd", Way.BASE),
    "+ KD": ("kd", Way.BASE),
    **{
        f"+ KD, {name}": ("kd", name)
        for name in (Way.MINIMAL, Way.OURS, Way.OURS_OF_SEVEN, Way.RELEASED)
    },
}
KD_ARMS = {
    name: ("", name) for name in (Way.BASE, Way.MINIMAL, Way.OURS, Way.OURS_OF_SEVEN, Way.RELEASED)
}


@dataclass(frozen=True)
class Gains:
    """What augmentations bring to methods: a row a method, a column an arm, students of one teacher
    and all seeds in each.

    scored   the set-up whose score picks. setup  that of the students, of the same teacher.
    methods  (quantizer, bits of weights and activations, loss). arms  QAT_ARMS or KD_ARMS.
    """

    scored: Setup
    setup: Setup
    seeds: tuple[int, ...]
    methods: tuple[tuple[str, int, str], ...]
    arms: dict[str, tuple[str, str]]

    def students(
        self, store: Store | None
    ) -> dict[tuple[str, int, str], dict[str, list[StudentRun]]]:
        """Method -> arm -> a student a seed, of the arms whose augmentation is known. Arms may
        share students.
        """
        chosen = picks(self.scored, store)
        return {
            (quantizer, bits, loss): {
                arm: [
                    self.setup.student(
                        chosen[how],
                        seed,
                        arm_loss or loss,
                        method=quantizer,
                        weight_bits=bits,
                        activation_bits=bits,
                    )
                    for seed in self.seeds
                ]
                for arm, (arm_loss, how) in self.arms.items()
                if how in chosen
            }
            for quantizer, bits, loss in self.methods
        }


QAT_METHODS = ("ewgs", "lsq", "pact", "dorefa")
KD_METHODS = (
    "sqakd",
    "at",
    "nst",
    "sp",
    "rkd",
    "crd",
    "fitnet",
    "cc",
    "vid",
    "fsp",
    "ft",
    "cktf",
)  # PAPER 7.4


def _for(profile: str, methods: tuple[str, ...]) -> list[str]:
    """Those of these methods that the profile has time for."""
    return [method for method in methods if method in (SIZES[profile].methods or methods)]


def qat_gains(profile: str) -> list[Gains]:
    """The QAT table (C3): every set-up of the profile (of `cpu`, those on CIFAR) at its own bits,
    EWGS on CIFAR at other bits too; PAPER 7.7 on Tiny-ImageNet.

    CIFAR rows have the schedule of the 16-augmentation runs (PAPER 7.2) in every arm, so that arms
    can be compared. PAPER 7.3, from which SQAKD's own rows are, trains ResNet-32 and VGG-13 for 720
    epochs, and weighs SQAKD by 100 on ResNet-32 at 4 bits. Every arm of a set-up has its one
    teacher, trained with CutMix on CIFAR, so that arms differ in one thing.
    """
    found = []
    for scored in (s for s in setups(profile) if s.in_gains):
        setup, seeds = _small(profile, scored)
        if setup.method != "ewgs":
            found.append(Gains(scored, setup, seeds, ((setup.method, setup.bits, "kd"),), QAT_ARMS))
            continue
        others = SIZES[profile].bits
        rows = [(method, setup.bits, "kd") for method in _for(profile, QAT_METHODS)]
        rows += [("ewgs", bits, "kd") for bits in others if bits != setup.bits]
        found.append(Gains(scored, setup, seeds, tuple(rows), QAT_ARMS))
    found += [
        Gains(s, s, s.seeds, ((s.method, s.bits, "kd"),), QAT_ARMS) for s in SIZES[profile].sqakd
    ]
    return found


def kd_gains(profile: str) -> list[Gains]:
    """The KD table (C4): PAPER 7.4 with EWGS, all of its losses or those that there is time for, on
    CIFAR-100 VGG-13 where the profile has it, else on its first set-up.
    """
    scored = setups(profile)[SIZES[profile].kd]
    methods = tuple(("ewgs", scored.bits, loss) for loss in _for(profile, KD_METHODS))
    return [Gains(scored, *_small(profile, scored), methods, KD_ARMS)]


def _gains(found: list[Gains], store: Store | None) -> tuple[Run, ...]:
    runs = []
    for gains in found:
        runs += [gains.setup.teacher, gains.scored.score]
        runs += [
            run
            for arms in gains.students(store).values()
            for students in arms.values()
            for run in students
        ]
    return tuple(runs)


DELTAS = (
    0.001,
    0.1,
)  # of EWGS instead of 0; the first is the fixed one of its authors' scripts (PAPER 7.11)
FORMS = ("lsq", "pact", "dorefa")  # quantizers whose released form differs from their paper's


def score_ablation(setup: Setup) -> AblationRun:
    """The score of a set-up computed in other ways, also on fewer images."""
    return AblationRun(
        setup.score.data, setup.teacher, CANDIDATES, counts=setup.counts, batch=setup.score_batch
    )


def other_teacher(profile: str) -> ScoreRun:
    """The first set-up's score by a teacher that was trained without CutMix."""
    first = setups(profile)[0].score
    return replace(first, teacher=replace(first.teacher, augmentation="none"))


def forms(profile: str) -> dict[str, list[StudentRun]]:
    """Name -> students with plain KD and crop and mirror: EWGS by its factor, other quantizers in
    their two forms.
    """
    comparison = methods(profile)
    setup, seeds, quantizers = comparison.setup, comparison.seeds, comparison.quantizers
    found = {"ewgs, delta = 0 (straight-through)": quantizers["ewgs"]}
    for delta in DELTAS:
        found[f"ewgs, delta = {delta:g}"] = [
            setup.student("none", seed, method="ewgs", method_options={"delta": delta})
            for seed in seeds
        ]
    for name in FORMS:
        found |= {
            f"{name}, paper": quantizers[name],
            f"{name}, released": quantizers[f"{name}_released"],
        }
    return found


def _ablations(profile: str, store: Store | None) -> tuple[Run, ...]:
    students, other = (
        [run for runs in forms(profile).values() for run in runs],
        other_teacher(profile),
    )
    return (*_definitions(profile, store), other.teacher, other, *students)


BEST_PAIR, BEST_FEW = "best pair of the search", "best 4 pairs, one an image"


def search(profile: str) -> BudgetRun:
    """The race of random two-operation policies (PAPER 4.6) under the first set-up's teacher."""
    first, sizes = setups(profile)[0].score, SIZES[profile]
    names = tuple(f"pair{k}" for k in range(sizes.pairs))
    return BudgetRun(first.data, first.teacher, names, budget=sizes.budget, top=4)


def searched(profile: str, store: Store | None) -> dict[str, str]:
    """What the search found: name -> augmentation; empty before its race was run."""
    record = None if store is None else store.finished(search(profile))
    if record is None:
        return {}
    best = [row["augmentation"] for row in record["result"]["scores"]][: search(profile).top]
    return {
        BEST_PAIR: best[0],
        BEST_FEW: best[0] + "".join(name.replace("pair", "-") for name in best[1:]),
    }


def search_score(profile: str, store: Store | None) -> ScoreRun | None:
    """The score of what the search found on all images, to be compared with that of the sixteen;
    None before the race.
    """
    found = searched(profile, store)
    return replace(setups(profile)[0].score, augmentations=tuple(found.values())) if found else None


def search_students(profile: str, store: Store | None) -> dict[str, list[StudentRun]]:
    """Name -> students with plain KD under what the search found, and under the picks among the
    sixteen.
    """
    comparison = methods(profile)
    of_sixteen = {
        name: pick
        for name, pick in picks(setups(profile)[0], store).items()
        if name in (Way.BASE, Way.OURS, Way.OURS_OF_SEVEN)
    }
    return {
        name: [comparison.setup.student(augmentation, seed) for seed in comparison.seeds]
        for name, augmentation in (of_sixteen | searched(profile, store)).items()
    }


def _search(profile: str, store: Store | None) -> tuple[Run, ...]:
    first, score = setups(profile)[0], search_score(profile, store)
    students = [run for runs in search_students(profile, store).values() for run in runs]
    return (first.teacher, first.score, search(profile), *([score] if score else []), *students)


# -------------------------------------------------------- when the score works: docs/experiments.md


def regimes(profile: str) -> tuple[Setup, ...]:
    """The set-ups with a student for each of the sixteen augmentations."""
    return REGIMES.get(profile, ())


def teachers_alone(profile: str) -> tuple[Setup, ...]:
    """The set-ups whose teachers are scored: `regimes`, and those with a student for some
    augmentations only.
    """
    return (*regimes(profile), *SIZES[profile].other)


def held_out(setup: Setup) -> HeldOutRun:
    """The rivals of a set-up's score that look at held-out images."""
    images = Data(setup.data.name, split="choosing")
    return HeldOutRun(
        setup.score.data, setup.teacher, CANDIDATES, images, setup.views, setup.score_batch
    )


def temperatures(setup: Setup) -> AblationRun:
    """The score at temperatures from 1/4 to 4, on the students' images."""
    grid = tuple(2.0 ** (k / 2) for k in range(-4, 5) if k)
    return AblationRun(setup.data, setup.teacher, CANDIDATES, grid, batch=setup.score_batch)


def walks(profile: str) -> list[WalkRun]:
    """The scores along teachers' training, with and without CutMix."""
    found = []
    for setup in SIZES[profile].walkers:
        last = setup.teacher.recipe.epochs
        epochs = (*(2**k for k in range(last) if 2**k < last), last)
        for augmentation in ("none", "none" + CUTMIX):
            teacher = replace(setup.teacher, augmentation=augmentation)
            found.append(WalkRun(teacher.data, teacher, CANDIDATES, epochs, setup.views))
    return found


def _theory(profile: str, store: Store | None) -> tuple[Run, ...]:
    alone = teachers_alone(profile)
    scores = [
        run
        for setup in alone
        for run in (setup.teacher, setup.score, held_out(setup), temperatures(setup))
    ]
    return (*scores, *walks(profile))


STRONG = ("trivialaugment", "autoaugment_imagenet")


def capacity(setup: Setup) -> dict[str, list[TeacherRun]]:
    """Augmentation -> full-precision networks of the students' kind, trained on labels on the
    students' images, a seed each.
    """
    if setup.label_recipe is None:
        return {}
    return {
        name: [
            TeacherRun(setup.data, setup.model, setup.label_recipe, name, seed=seed)
            for seed in (0, 1)
        ]
        for name in ("none", *STRONG)
    }


def _regimes(profile: str, store: Store | None) -> tuple[Run, ...]:
    return tuple(
        run
        for setup in regimes(profile)
        if setup not in SIZES[profile].later
        for run in (setup.teacher, setup.score, *setup.students)
    )


ARMS = {name: ("", name) for name in (Way.BASE, Way.OURS, Way.MINIMAL, Way.RELEASED)}
OTHER_ARMS = {
    name: ("", name) for name in (Way.BASE, Way.OURS, Way.MINIMAL, Way.MILDEST, Way.STRONGEST)
}


def wider(profile: str, store: Store | None) -> Setup | None:
    """Of the contended set-ups the one whose mean accuracies of seeds 0 and 1 have the largest
    standard deviation; None before all are done.
    """
    spreads = []
    for setup in SIZES[profile].contended:
        accuracies: dict[str, list[float]] = {}
        for run in setup.students:
            if run.seed < 2:
                record = store.finished(run) if store else None
                if record is None:
                    return None
                accuracies.setdefault(run.augmentation, []).append(record["result"]["accuracy"])
        spreads.append((stdev(sum(values) / len(values) for values in accuracies.values()), setup))
    return max(spreads, key=lambda pair: pair[0])[1] if spreads else None


def regime_gains(profile: str, store: Store | None) -> dict[str, Gains]:
    """E, G and H of docs/experiments.md, with EWGS + KD as it is in all three; and I. Empty before
    `wider` is known.
    """
    setup, found = wider(profile, store), {}
    if setup is not None:
        rows = {
            "E": [(method, 2, "kd") for method in QAT_METHODS],
            "G": [("ewgs", 2, loss) for loss in ("kd", "sqakd", "dkd", "at", "crd", "rkd")],
            "H": [("ewgs", bits, "kd") for bits in (1, 2, 3, 4)],
        }
        found = {
            name: Gains(setup, setup, setup.seeds, tuple(methods), ARMS)
            for name, methods in rows.items()
        }
    for other in SIZES[profile].other:
        rows = (("ewgs", other.bits, "kd"),)
        found[other.regime] = Gains(other, other, other.seeds, rows, OTHER_ARMS)
    return found


def _regime_gains(profile: str, store: Store | None) -> tuple[Run, ...]:
    sizes = SIZES[profile]
    more = [run for setup in sizes.later for run in (setup.teacher, setup.score, *setup.students)]
    full = [run for setup in sizes.capacity for runs in capacity(setup).values() for run in runs]
    return (*_gains(list(regime_gains(profile, store).values()), store), *full, *more)


def kept(profile: str) -> frozenset[str]:
    """Keys of the runs whose weights are committed: the teachers of docs/experiments.md, and the
    students of seed 0 of the contended set-ups. None where nothing is contended.
    """
    sizes = SIZES[profile]
    students = [run for setup in sizes.contended for run in setup.students if run.seed == 0]
    teachers = [setup.teacher for setup in teachers_alone(profile)] if students else []
    return frozenset(run.key for run in (*teachers, *students))


# What `TABLE=` accepts: name -> (the runs it needs, its notebook; "" where another table's notebook
# shows them, "all" then leaves it out).
TABLES = {
    "tour": (_tour, "00_tour.ipynb"),
    "ranking": (_ranking, "01_metric_vs_accuracy.ipynb"),
    "speed": (_speed, "02_speed.ipynb"),
    "methods": (_methods, "03_methods.ipynb"),
    "own": (lambda profile, store: (), "04_your_own.ipynb"),
    "definitions": (_definitions, "05_definitions.ipynb"),
    "cost": (_ranking, "06_cost.ipynb"),
    "qat": (lambda profile, store: _gains(qat_gains(profile), store), "07_qat_methods.ipynb"),
    "kd": (lambda profile, store: _gains(kd_gains(profile), store), "08_kd_methods.ipynb"),
    "ablations": (_ablations, "09_ablations.ipynb"),
    "search": (_search, "10_policy_search.ipynb"),
    "theory": (_theory, "11_when_the_score_works.ipynb"),
    "regimes": (_regimes, "12_regimes.ipynb"),
    "regime_gains": (_regime_gains, ""),  # shown in notebook 12 too
}


def tables(table: str) -> tuple[str, ...]:
    """("all" or one name) -> names. Raises ValueError for an unknown one."""
    if table != "all" and table not in TABLES:
        raise ValueError(f"unknown table {table!r}; known: all, {', '.join(TABLES)}")
    return (
        tuple(name for name, (_, notebook) in TABLES.items() if notebook)
        if table == "all"
        else (table,)
    )


@dataclass(frozen=True)
class Selection:
    """A part of a table: this data set and network only, students of so many bits, the first so
    many seeds. Empty is all.

    Raises ValueError for a negative number.
    """

    dataset: str = ""
    model: str = ""
    bits: int = 0
    seeds: int = 0

    def __post_init__(self):
        for name in ("bits", "seeds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 (all) or more, got {getattr(self, name)}")

    def takes(self, run: Run) -> bool:
        """Whether a run belongs to the part."""
        model = run.model if isinstance(run, TeacherRun) else run.teacher.model
        if (self.dataset or run.data.name) != run.data.name or (self.model or model) != model:
            return False
        if not isinstance(run, StudentRun):
            return True
        return (self.bits or run.weight_bits) == run.weight_bits and (
            not self.seeds or run.seed < self.seeds
        )

    def rows(self, table: DataFrame) -> DataFrame:
        """The rows of the part, of a table with columns dataset, model and bits; all seeds that
        were averaged stay so.
        """
        for column in ("dataset", "model", "bits"):
            if wanted := getattr(self, column):
                table = table[table[column] == wanted]
        return table.reset_index(drop=True)


ALL = Selection()


def runs_of(
    profile: str, table: str = "all", store: Store | None = None, part: Selection = ALL
) -> list[Run]:
    """Every run that a table of a profile needs as far as the store's records tell, teachers first,
    none twice.

    >>> len(runs_of("quick", "ranking")), len(runs_of("lite", "ranking",
    ...     part=Selection("cifar100", "vgg13")))
    (18, 18)
    """
    found = {
        run.key: run
        for name in tables(table)
        for run in TABLES[name][0](profile, store)
        if part.takes(run)
    }
    return sorted(found.values(), key=lambda run: not isinstance(run, TeacherRun))


def stages(profile: str, table: str, store: Store, part: Selection = ALL) -> Iterator[list[Run]]:
    """The runs of a table: all that are known now and, when the caller has made them, all again
    with those they name.

    All again, too, if making them undid others: a teacher that had to be trained anew may end with
    other weights.
    """
    before: dict[str, bool] = {}
    while True:
        runs = runs_of(profile, table, store, part)
        now = {run.key: store.done(run) for run in runs}
        if before.keys() == now.keys() and (now == before or all(now.values())):
            return
        yield runs
        before = now


def lacks(profile: str, table: str, part: Selection) -> str:
    """What to tell who asks for a part that a table with runs does not have; "" if it has it.

    >>> lacks("cpu", "ranking", Selection("cifar10", "vgg13")).split("; ")[0]
    "ranking of cpu has nothing for dataset='cifar10', model='vgg13'"
    """
    runs = runs_of(profile, table)
    # A teacher or a score belongs to every part with its network: what can be lacking is its
    # students, where the table has any.
    telling = [run for run in runs if isinstance(run, StudentRun)] or runs
    if not runs or any(map(part.takes, telling)):
        return ""
    asked = ", ".join(f"{name}={value!r}" for name, value in asdict(part).items() if value)
    there = {
        f"{run.data.name} {teacher.model}"
        + (f" W{run.weight_bits}" if isinstance(run, StudentRun) else "")
        for run in telling
        for teacher in run.teachers
    }
    return f"{table} of {profile} has nothing for {asked}; it has {', '.join(sorted(there))}"
