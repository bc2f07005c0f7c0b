"""Which runs each table and figure needs, per profile. No torch here.

Some students train with what a score picked. Which those are is known once the score's record is
there. Functions that need it take the store that holds it, and `stages` gives the runs in the order
in which they become known.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev

from pandas import DataFrame

from ..basics.recipe import PRECISIONS, require, require_known
from . import config
from .config import BudgetRun, Data, Run, ScoreRun, StudentRun, TeacherRun
from .gains import KD_ARMS, OTHER_ARMS, QAT_ARMS, REGIME_ARMS, Gains, Way, picks, result_of
from .profiles import CANDIDATES, CUTMIX, REGIMES, SIZES, Setup, setups
from .store import Store


def _all_of(students: dict[str, list[Run]]) -> list[Run]:
    return [run for runs in students.values() for run in runs]


def _short(profile: str, setup: Setup) -> tuple[Setup, tuple[int, ...]]:
    """A set-up with a budget short enough for many students, and their seeds."""
    short = SIZES[profile].short
    if short is None:
        return setup, setup.seeds
    return setup.shorter(short.train, short.epochs, short.test), short.seeds


# ---------------------------------------------------------------------- ranking, definitions, speed


def tour(profile: str) -> config.TourRun:
    """What notebook 00 shows of a profile's first set-up. In this draw every policy shows."""
    first = setups(profile)[0]
    return config.TourRun(first.data, first.teacher, CANDIDATES, image=20, seed=29)


def _tour(profile: str, store: Store | None) -> Iterable[Run]:
    first = setups(profile)[0]
    return (first.teacher, tour(profile), first.score)


def _ranking(profile: str, store: Store | None) -> Iterable[Run]:
    return [run for setup in setups(profile) for run in setup.runs]


def score_ablation(setup: Setup) -> config.AblationRun:
    """The score of a set-up computed in other ways, also on fewer images."""
    data, batch = setup.score.data, setup.score_batch
    return config.AblationRun(data, setup.teacher, CANDIDATES, counts=setup.counts, batch=batch)


def _definitions(profile: str, store: Store | None) -> Iterable[Run]:
    return (*_ranking(profile, store), *map(score_ablation, setups(profile)))


@dataclass(frozen=True)
class Comparison:
    """Students that differ in seed and precision only, for each of two augmentations."""

    setup: Setup
    augmentations: tuple[str, ...] = ("none", "randaugment+cutmix")
    seeds: tuple[int, ...] = (0, 1, 2)

    def students(self, precision: str, augmentation: str) -> list[StudentRun]:
        """A student a seed."""
        recipe = replace(self.setup.student_recipe, precision=precision)
        return [self.setup.student(augmentation, seed, recipe=recipe) for seed in self.seeds]


def precision_comparison(profile: str) -> Comparison:
    """The first set-up of a profile, smaller on a CPU: on CIFAR-10 with fewer images and more
    epochs.
    """
    first, sizes = setups(profile)[0], SIZES[profile].precision
    return Comparison(first.shorter(*sizes) if sizes else first)


def raced(profile: str) -> Setup:
    """The set-up whose candidates are raced."""
    return SIZES[profile].raced or setups(profile)[0]


def races(profile: str) -> list[BudgetRun]:
    """The ranking of a set-up's candidates within a tenth of the forward passes, from three random
    orders.
    """
    full = raced(profile).score
    return [BudgetRun(full.data, full.teacher, CANDIDATES, seed=seed) for seed in range(3)]


def short_score(profile: str) -> ScoreRun:
    """The first set-up's score with the teacher in bfloat16."""
    return replace(setups(profile)[0].score, precision="bfloat16")


def _speed(profile: str, store: Store | None) -> Iterable[Run]:
    first, pairs = setups(profile)[0], precision_comparison(profile)
    students = [
        run for p in PRECISIONS for name in pairs.augmentations for run in pairs.students(p, name)
    ]
    full = raced(profile)
    scores = (first.score, short_score(profile), full.score, *races(profile))
    return (first.teacher, full.teacher, *scores, *students)


# ---------------------------------------------------------------- methods, gains, forms, the search

FORMS = ("lsq", "pact", "dorefa")  # quantizers whose released form differs from their paper's
QUANTIZERS = (
    *("ewgs", "lsq", "lsq+", "pact", "dorefa", "ternary"),
    *(f"{name}_released" for name in FORMS),
)
LOSSES = (
    *("kd", "ce", "sqakd", "dkd", "fitnet", "at", "nst", "sp", "rkd", "cc", "vid", "fsp"),
    *("fsp_active", "ft", "pkt", "kdsvd", "crd", "cktf"),
)
QAT_METHODS = ("ewgs", "lsq", "pact", "dorefa")
# PAPER 7.4
KD_METHODS = ("sqakd", "at", "nst", "sp", "rkd", "crd", "fitnet", "cc", "vid", "fsp", "ft", "cktf")
# Of EWGS instead of 0. The first is the fixed one of its authors' scripts (PAPER 7.11).
DELTAS = (0.001, 0.1)


@dataclass(frozen=True)
class Methods:
    """Students that differ in quantizer, or in loss, and in seed, with crop and mirror alone. Both
    lists hold EWGS + KD.
    """

    setup: Setup
    seeds: tuple[int, ...]

    def students(self, method: str, loss: str = "kd", **changes: object) -> list[StudentRun]:
        """A student a seed. `changes` are fields of `StudentRun`."""
        return [
            self.setup.student("none", seed, loss, method=method, **changes) for seed in self.seeds
        ]

    @property
    def quantizers(self) -> dict[str, list[StudentRun]]:
        """Each quantizer with plain KD."""
        return {name: self.students(name) for name in QUANTIZERS}

    @property
    def losses(self) -> dict[str, list[StudentRun]]:
        """Each loss with EWGS."""
        return {name: self.students("ewgs", name) for name in LOSSES}


def methods(profile: str) -> Methods:
    """The first set-up of a profile. On a CPU it has a short budget, the same for all methods."""
    return Methods(*_short(profile, setups(profile)[0]))


def _methods(profile: str, store: Store | None) -> Iterable[Run]:
    comparison = methods(profile)
    students = (*_all_of(comparison.quantizers), *_all_of(comparison.losses))
    return (comparison.setup.teacher, *students)


def _for(profile: str, methods: tuple[str, ...]) -> list[str]:
    """Those of these methods that the profile has time for."""
    return [method for method in methods if method in (SIZES[profile].methods or methods)]


def qat_gains(profile: str) -> list[Gains]:
    """The QAT table (C3): every set-up of the profile (of `cpu`, those on CIFAR) at its own bits,
    EWGS on CIFAR at other bits too, and PAPER 7.7 on Tiny-ImageNet.

    CIFAR rows have the schedule of the 16-augmentation runs (PAPER 7.2) in every arm, so that arms
    can be compared. SQAKD's own rows are from PAPER 7.3, which trains ResNet-32 and VGG-13 for 720
    epochs, and weighs SQAKD by 100 on ResNet-32 at 4 bits. All arms of a set-up have one teacher,
    trained with CutMix on CIFAR, so that arms differ in one thing.
    """
    found, sizes = [], SIZES[profile]
    for scored in (*(s for s in setups(profile) if s.in_gains), *sizes.sqakd):
        rows = [(scored.method, scored.bits, "kd")]
        if scored.method == "ewgs":
            rows = [(method, scored.bits, "kd") for method in _for(profile, QAT_METHODS)]
            rows += [("ewgs", bits, "kd") for bits in sizes.bits if bits != scored.bits]
        found.append(Gains(scored, *_short(profile, scored), tuple(rows), QAT_ARMS))
    return found


def kd_gains(profile: str) -> list[Gains]:
    """The KD table (C4): PAPER 7.4 with EWGS, all of its losses or those that there is time for, on
    CIFAR-100 VGG-13 where the profile has it, else on its first set-up.
    """
    scored = setups(profile)[SIZES[profile].kd]
    methods = tuple(("ewgs", scored.bits, loss) for loss in _for(profile, KD_METHODS))
    return [Gains(scored, *_short(profile, scored), methods, KD_ARMS)]


def _gains(found: Iterable[Gains], store: Store | None) -> Iterable[Run]:
    return [run for gains in found for run in gains.runs(store)]


def other_teacher(profile: str) -> ScoreRun:
    """The first set-up's score by a teacher that was trained without CutMix."""
    first = setups(profile)[0].score
    return replace(first, teacher=replace(first.teacher, augmentation="none"))


def forms(profile: str) -> dict[str, list[StudentRun]]:
    """Name -> students with plain KD and crop and mirror: EWGS by its factor, other quantizers in
    their two forms.
    """
    students = methods(profile).students
    found = {"ewgs, delta = 0 (straight-through)": students("ewgs")}
    for delta in DELTAS:
        found[f"ewgs, delta = {delta:g}"] = students("ewgs", method_options={"delta": delta})
    for name in FORMS:
        found[f"{name}, paper"] = students(name)
        found[f"{name}, released"] = students(f"{name}_released")
    return found


def _ablations(profile: str, store: Store | None) -> Iterable[Run]:
    other = other_teacher(profile)
    return (*_definitions(profile, store), other.teacher, other, *_all_of(forms(profile)))


BEST_PAIR, BEST_FEW = "best pair of the search", "best 4 pairs, one an image"


def search(profile: str) -> BudgetRun:
    """The race of random two-operation policies (PAPER 4.6) under the first set-up's teacher."""
    first, sizes = setups(profile)[0].score, SIZES[profile]
    names = tuple(f"pair{k}" for k in range(sizes.pairs))
    return BudgetRun(first.data, first.teacher, names, budget=sizes.budget, top=4)


def searched(profile: str, store: Store | None) -> dict[str, str]:
    """What the search found: name -> augmentation. Empty before its race was run."""
    race = search(profile)
    result = result_of(race, store)
    if result is None:
        return {}
    best, *others = [row["augmentation"] for row in result["scores"]][: race.top]
    few = best + "".join(name.replace("pair", "-") for name in others)
    return {BEST_PAIR: best, BEST_FEW: few}


def search_score(profile: str, store: Store | None) -> ScoreRun | None:
    """The score of what the search found on all images, to be compared with that of the sixteen.
    None before the race.
    """
    found = searched(profile, store)
    return replace(setups(profile)[0].score, augmentations=tuple(found.values())) if found else None


def search_students(profile: str, store: Store | None) -> dict[str, list[StudentRun]]:
    """Name -> students with plain KD under what the search found, and under the picks among the
    sixteen.
    """
    setup, seeds = _short(profile, setups(profile)[0])
    sixteen = picks(setups(profile)[0], store)
    ways = (way for way in sixteen if way in (Way.BASE, Way.OURS, Way.OURS_OF_SEVEN))
    chosen = {way: sixteen[way] for way in ways} | searched(profile, store)
    return {
        name: [setup.student(augmentation, seed) for seed in seeds]
        for name, augmentation in chosen.items()
    }


def _search(profile: str, store: Store | None) -> Iterable[Run]:
    first, score = setups(profile)[0], search_score(profile, store)
    students = _all_of(search_students(profile, store))
    return (first.teacher, first.score, search(profile), *([score] if score else []), *students)


# -------------------------------------------------------- when the score works: docs/experiments.md

STRONG = ("trivialaugment", "autoaugment_imagenet")


def regimes(profile: str) -> tuple[Setup, ...]:
    """The set-ups with a student for each of the sixteen augmentations."""
    return REGIMES.get(profile, ())


def teachers_alone(profile: str) -> tuple[Setup, ...]:
    """The set-ups whose teachers are scored: `regimes`, and those with a student for some
    augmentations only.
    """
    return (*regimes(profile), *SIZES[profile].other)


def held_out(setup: Setup) -> config.HeldOutRun:
    """The rivals of a set-up's score that look at held-out images."""
    images, score = Data(setup.data.name, split="choosing"), setup.score
    return config.HeldOutRun(
        score.data, score.teacher, CANDIDATES, images, setup.views, score.batch
    )


def temperatures(setup: Setup) -> config.AblationRun:
    """The score at temperatures from 1/4 to 4, on the students' images."""
    grid = tuple(2.0 ** (k / 2) for k in range(-4, 5) if k)
    return config.AblationRun(setup.data, setup.teacher, CANDIDATES, grid, batch=setup.score_batch)


def walks(profile: str) -> list[config.WalkRun]:
    """The scores along teachers' training, with and without CutMix."""
    found = []
    for setup in SIZES[profile].walkers:
        last = setup.teacher.recipe.epochs
        epochs = (*(2**k for k in range(last) if 2**k < last), last)
        for augmentation in ("none", "none" + CUTMIX):
            teacher = replace(setup.teacher, augmentation=augmentation)
            found.append(config.WalkRun(teacher.data, teacher, CANDIDATES, epochs, setup.views))
    return found


def _theory(profile: str, store: Store | None) -> Iterable[Run]:
    scores = [
        run
        for setup in teachers_alone(profile)
        for run in (setup.teacher, setup.score, held_out(setup), temperatures(setup))
    ]
    return (*scores, *walks(profile))


def capacity(setup: Setup) -> dict[str, list[TeacherRun]]:
    """Augmentation -> full-precision networks of the students' kind, trained on labels on the
    students' images, a seed each.
    """
    data, model, recipe = setup.data, setup.model, setup.label_recipe
    if recipe is None:
        return {}
    return {
        name: [TeacherRun(data, model, recipe, name, seed=seed) for seed in (0, 1)]
        for name in ("none", *STRONG)
    }


def _regimes(profile: str, store: Store | None) -> Iterable[Run]:
    now = [setup for setup in regimes(profile) if setup not in SIZES[profile].later]
    return [run for setup in now for run in setup.runs]


def _spread(setup: Setup, store: Store | None) -> float | None:
    """Standard deviation over augmentations of the mean accuracy of seeds 0 and 1. None before all
    students are done.
    """
    accuracies: dict[str, list[float]] = {}
    for run in (run for run in setup.students if run.seed < 2):
        result = result_of(run, store)
        if result is None:
            return None
        accuracies.setdefault(run.augmentation, []).append(result["accuracy"])
    return stdev(map(fmean, accuracies.values()))


def wider(profile: str, store: Store | None) -> Setup | None:
    """Of the contended set-ups the one whose accuracies have the widest `_spread`. None before all
    are done.
    """
    contended = SIZES[profile].contended
    spreads = [_spread(setup, store) for setup in contended]
    if not spreads or None in spreads:
        return None
    return contended[spreads.index(max(spreads))]


def regime_gains(profile: str, store: Store | None) -> dict[str, Gains]:
    """E, G and H of docs/experiments.md, and I. EWGS + KD is in all of the first three, which are
    there once `wider` is known.
    """
    setup, found = wider(profile, store), {}
    if setup is not None:
        rows = {
            "E": [(method, 2, "kd") for method in QAT_METHODS],
            "G": [("ewgs", 2, loss) for loss in ("kd", "sqakd", "dkd", "at", "crd", "rkd")],
            "H": [("ewgs", bits, "kd") for bits in (1, 2, 3, 4)],
        }
        for name, methods in rows.items():
            found[name] = Gains(setup, setup, setup.seeds, tuple(methods), REGIME_ARMS)
    for other in SIZES[profile].other:
        methods = (("ewgs", other.bits, "kd"),)
        found[other.regime] = Gains(other, other, other.seeds, methods, OTHER_ARMS)
    return found


def _regime_gains(profile: str, store: Store | None) -> Iterable[Run]:
    sizes = SIZES[profile]
    gains = _gains(regime_gains(profile, store).values(), store)
    full = [run for setup in sizes.capacity for run in _all_of(capacity(setup))]
    return (*gains, *full, *(run for setup in sizes.later for run in setup.runs))


def kept(profile: str) -> frozenset[str]:
    """Keys of the runs whose weights are committed: the teachers of docs/experiments.md, the
    students of seed 0 of the contended set-ups, and the networks that tables of related systems
    need.
    """
    contended = SIZES[profile].contended
    students = [run for setup in contended for run in setup.students if run.seed == 0]
    teachers = [setup.teacher for setup in teachers_alone(profile)] if contended else []
    others = [each for run in runs_of(profile, RELATED) for each in run.needs]
    return frozenset(run.key for run in (*teachers, *students, *others))


# ------------------------------------------------------------------------------- tables and parts

PAPER, EVIDENCE, RELATED = "all", "evidence", "related"


@dataclass(frozen=True)
class Table:
    """What one `TABLE=` makes.

    runs      (profile, store) -> the runs that it needs.
    notebook  that shows it; "" where that of another table does.
    group     the paper's tables, those of docs/experiments.md, or those of related systems.
    """

    runs: Callable[[str, Store | None], Iterable[Run]]
    notebook: str
    group: str = PAPER


TABLES: dict[str, Table] = {
    "tour": Table(_tour, "00_tour.ipynb"),
    "ranking": Table(_ranking, "01_metric_vs_accuracy.ipynb"),
    "speed": Table(_speed, "02_speed.ipynb"),
    "methods": Table(_methods, "03_methods.ipynb"),
    "own": Table(lambda profile, store: (), "04_your_own.ipynb"),
    "definitions": Table(_definitions, "05_definitions.ipynb"),
    "cost": Table(_ranking, "06_cost.ipynb"),
    "qat": Table(lambda profile, store: _gains(qat_gains(profile), store), "07_qat_methods.ipynb"),
    "kd": Table(lambda profile, store: _gains(kd_gains(profile), store), "08_kd_methods.ipynb"),
    "ablations": Table(_ablations, "09_ablations.ipynb"),
    "search": Table(_search, "10_policy_search.ipynb"),
    "theory": Table(_theory, "11_when_the_score_works.ipynb", EVIDENCE),
    "regimes": Table(_regimes, "12_regimes.ipynb", EVIDENCE),
    "regime_gains": Table(_regime_gains, "", EVIDENCE),  # shown in notebook 12 too
    "export": Table(lambda profile, store: (), "13_export.ipynb", EVIDENCE),
    "explore": Table(lambda profile, store: (), "14_explore.ipynb", EVIDENCE),
}


def choices() -> tuple[str, ...]:
    """What `TABLE=` accepts: the groups, and the tables."""
    return (PAPER, EVIDENCE, RELATED, *TABLES)


def tables(table: str) -> tuple[str, ...]:
    """(a group or one name) -> names. Raises ValueError for an unknown one."""
    require_known("table", table, choices())
    return tuple(name for name, each in TABLES.items() if table in (name, each.group))


@dataclass(frozen=True)
class Selection:
    """A part of a table: this data set and network only, students of so many bits, the first so
    many seeds. "" or 0 takes all.

    Raises ValueError for a negative number.
    """

    dataset: str = ""
    model: str = ""
    bits: int = 0
    seeds: int = 0

    def __post_init__(self):
        require(self.bits >= 0, f"bits must be 0 (all) or more, got {self.bits}")
        require(self.seeds >= 0, f"seeds must be 0 (all) or more, got {self.seeds}")

    def takes(self, run: Run) -> bool:
        """Whether a run belongs to the part."""
        if (self.dataset or run.data.name) != run.data.name or (
            self.model or run.model
        ) != run.model:
            return False
        if not isinstance(run, StudentRun):
            return True
        return (self.bits or run.weight_bits) == run.weight_bits and (
            not self.seeds or run.seed < self.seeds
        )

    def rows(self, table: DataFrame) -> DataFrame:
        """The rows of the part, of a table with columns dataset, model and bits. Averages over
        seeds stay as they are.
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
        for run in TABLES[name].runs(profile, store)
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
    """A message if the table has runs but none of this part, else "".

    >>> lacks("cpu", "ranking", Selection("cifar10", "vgg13")).split("; ")[0]
    "ranking of cpu has nothing for dataset='cifar10', model='vgg13'"
    """
    runs = runs_of(profile, table)
    # A teacher or a score belongs to every part with its network. So the students tell what is
    # lacking, where the table has any.
    telling = [run for run in runs if isinstance(run, StudentRun)] or runs
    if not runs or any(map(part.takes, telling)):
        return ""
    asked = ", ".join(f"{name}={value!r}" for name, value in asdict(part).items() if value)
    there = sorted({_named(run) for run in telling if run.needs})
    return f"{table} of {profile} has nothing for {asked}; it has {', '.join(there)}"


def _named(run: Run) -> str:
    """Data set, network and bits of a run with a teacher."""
    bits = f" W{run.weight_bits}" if isinstance(run, StudentRun) else ""
    return f"{run.data.name} {run.model}{bits}"
