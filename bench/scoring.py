"""Scoring: one augmented pass of the teacher and its statistics, against the bare teacher and
against 22 plain passes.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from paperlib import scoring
from paperlib.augment import AUGMENTATIONS, parse
from paperlib.basics.machine import count_cores
from paperlib.data import Dataset
from paperlib.models import build
from paperlib.models.frozen import Frozen
from paperlib.models.precision import autocast

from . import baseline
from .machine import PRECISIONS, Setting, ceilings, efficiency, effort, frozen, images, noise, ready
from .measure import Contender, Row, best, combine
from .workers import Group, alone

BATCH = 100
WORKERS = (0, 2)  # of the baseline's DataLoader
TEACHERS = 4  # that score the same augmentation
LIMIT_PASSES = (
    3  # over the ready batches: everything is compared with the limit, so it is timed the longest
)
PLAIN = "an augmentation scored plainly, 22 passes"
DEFAULT_LAYOUT = "teacher alone, default memory layout"
Way = tuple[str, bool]  # precision, and whether the teacher is compiled
# The baseline's 22 passes: ten pairs of a candidate's view and a base view, one more for centroids,
# one to evaluate.
VIEWS, BASES = baseline.STDDEV_PASSES + 2, baseline.STDDEV_PASSES


def run(setting: Setting, report: Callable[[str], Any]) -> dict[str, Any]:
    """The rows of the suite, its settings and its measurements of memory."""
    with ExitStack() as stack:
        content = _speed(setting, report, stack)
    return content | {"memory": _memory(setting, report)}


def _speed(setting: Setting, report: Callable[[str], Any], stack: ExitStack) -> dict[str, Any]:
    count = setting.pick(200, 1000, 20_000)
    plain_count = setting.pick(100, 1280, 5_000)
    augmentations = AUGMENTATIONS[:2] + AUGMENTATIONS[8:10] if setting.small else AUGMENTATIONS
    policies = list(dict.fromkeys(parse(name)[0] for name in augmentations))
    plain_passes = [(p, w) for p in policies for w in _workers(setting, p)]
    data = images(setting, count)
    teacher = frozen(build(setting.model, 10), setting)
    view = ready(data, BATCH)[0][0]
    seen = {way: _seen(teacher, view, setting, *way) for way in ways(setting)}
    plain = stack.enter_context(
        Group(1, prepare_plain, (setting, plain_count, plain_passes), setting.threads)
    )
    contenders = [
        *_bare_contenders(seen, data, setting),
        *_our_contenders(seen, data, augmentations),
        *_teachers_contenders(view, data, setting),
        *_statistics_contenders(10 * count, setting),
        *(
            Contender(_plain(*pass_), lambda k=k: plain(number=k), plain_count)
            for k, pass_ in enumerate(plain_passes)
        ),
        *ceilings(setting),
    ]
    report(f"{len(contenders)} contenders, {count} images a pass, {plain_count} for the baseline")
    rates = setting.rates(contenders, report)
    rows = _rows(rates, augmentations, plain_passes, list(seen))
    with torch.no_grad():
        per_image = tuple(v / BATCH for v in effort(lambda: teacher(view)))
    rates |= {row.name: row.rounds for row in rows}
    for precision in PRECISIONS:
        last = [way for way in seen if way[0] == precision][-1]
        names = {_limit(precision): "limit", _average(last): "ours"}
        rows += efficiency(rates, names, per_image, precision, fused=last[1])
    return {
        "rows": [row.to_json() for row in rows],
        "settings": {
            "data": data.name,
            "model": setting.model,
            "batch": BATCH,
            "images": count,
            "baseline_images": plain_count,
            "gflop_per_image": per_image[0],
            "gb_per_image_unfused": per_image[1],
        },
    }


def _bare_contenders(
    seen: dict[Way, torch.nn.Module], data: Dataset, setting: Setting
) -> list[Contender]:
    """The teacher each way on ready batches, and as torch lays its weights out by default."""

    @torch.no_grad()
    def bare(network, pairs, precision):
        with autocast(setting.device, precision):
            for x, _ in pairs * LIMIT_PASSES:
                network(x)

    batches, work = ready(data, BATCH), LIMIT_PASSES * len(data.train_images)
    as_built = build(setting.model, 10).to(setting.device).eval()
    default = ready(data, BATCH, torch.contiguous_format)
    return [
        *(Contender(_bare(w), lambda w=w: bare(seen[w], batches, w[0]), work) for w in seen),
        Contender(DEFAULT_LAYOUT, lambda: bare(as_built, default, "float32"), work),
    ]


def _our_contenders(
    seen: dict[Way, torch.nn.Module], data: Dataset, augmentations: Sequence[str]
) -> list[Contender]:
    """A pass over the images with each augmentation, each way."""

    def ours(name, way):
        scoring.predict(seen[way], data, name, batch=BATCH, precision=way[0])

    return [
        Contender(_pass(a, w), lambda a=a, w=w: ours(a, w), len(data.train_images))
        for a in augmentations
        for w in seen
    ]


def _teachers_contenders(view: torch.Tensor, data: Dataset, setting: Setting) -> list[Contender]:
    """Several teachers score an augmentation, one after the other and on the same views."""
    several = {way: _several(view, setting, *way) for way in ways(setting)}

    def score(way, together):
        networks, how = several[way], {"precision": way[0], "replicates": 0}
        for one in [networks] if together else networks.values():
            scoring.rank(one, data, ["randaugment"], **how)

    work = TEACHERS * len(data.train_images)
    return [
        Contender(_teachers(w, t), lambda w=w, t=t: score(w, t), work)
        for w in several
        for t in (False, True)
    ]


def _statistics_contenders(count: int, setting: Setting) -> list[Contender]:
    """Statistics of `count` random predictions, with hard and soft labels."""
    logits = torch.randn(count, 10, device=setting.device)
    hard = noise(count, 10).train_labels.to(setting.device)
    soft = torch.nn.functional.one_hot(hard, 10).float()
    return [
        Contender(_statistics(k), lambda t=t: scoring.evaluate(logits, t, 1.0, 200, 0), count)
        for k, t in (("hard", hard), ("soft", soft))
    ]


def _workers(setting: Setting, policy: str) -> tuple[int, ...]:
    """Both numbers, but where two workers and the network share two cores, for two policies only:
    there none is faster.
    """
    crowded = not setting.cuda and count_cores() <= 2
    return (
        WORKERS[:1]
        if setting.small or (crowded and policy not in ("none", "randaugment"))
        else WORKERS
    )


def ways(setting: Setting) -> list[Way]:
    """A test compiles nothing: that takes longer than it may."""
    return [(p, compiled) for p in PRECISIONS for compiled in (False, True)[: 2 - setting.small]]


@torch.no_grad()
def _seen(
    teacher: torch.nn.Module, images: torch.Tensor, setting: Setting, precision: str, compiled: bool
) -> torch.nn.Module:
    """The teacher as it is, or compiled for such images."""
    with autocast(setting.device, precision):
        return Frozen(teacher, images) if compiled else teacher


def _several(
    images: torch.Tensor, setting: Setting, precision: str, compiled: bool
) -> dict[str, torch.nn.Module]:
    """Teachers by name, with weights of their own."""
    made = (frozen(build(setting.model, 10, seed), setting) for seed in range(TEACHERS))
    return {
        str(k): _seen(each, images, setting, precision, compiled) for k, each in enumerate(made)
    }


def _teachers(way: Way, together: bool) -> str:
    how = "the same views" if together else "one after the other"
    return f"{TEACHERS} teachers score an augmentation, {how}, {_named(way)}"


def _named(way: Way) -> str:
    return f"{way[0]}{', compiled' * way[1]}"


def _bare(way: Way) -> str:
    return f"teacher alone on ready batches, {_named(way)}"


def _limit(precision: str) -> str:
    return f"teacher alone on ready batches at best, {precision}"


def _pass(augmentation: str, way: Way) -> str:
    return f"our pass, {augmentation}, {_named(way)}"


def _average(way: Way) -> str:
    return f"our pass, mean of all, {_named(way)}"


def _statistics(kind: str) -> str:
    return f"our statistics, 200 replicates, {kind} labels"


def _plain(policy: str, workers: int) -> str:
    return f"plain pass, {policy}, {workers} workers"


def _rows(
    rates: dict[str, tuple[float, ...]],
    augmentations: Sequence[str],
    plain_passes: Sequence[tuple[str, int]],
    every: Sequence[Way],
) -> list[Row]:
    """All but the ceilings. A share of the base passes and the statistics are added round by
    round.
    """
    plain = {
        p: max((_plain(*one) for one in plain_passes if one[0] == p), key=lambda n: sum(rates[n]))
        for p, _ in plain_passes
    }
    rows = []
    for precision in PRECISIONS:
        bare = [Row(_bare(w), "limit", rates[_bare(w)]) for w in every if w[0] == precision]
        limit = best([row.rounds for row in bare])
        rows += [*bare, Row(_limit(precision), "limit", limit, headline=True)]
        for way in every:
            if way[0] == precision:
                rows += _rows_of(rates, augmentations, plain, way)
    scored = [
        combine([(VIEWS, rates[plain[parse(a)[0]]]), (BASES, rates[plain["none"]])])
        for a in augmentations
    ]
    rows.append(
        Row(PLAIN, "baseline", combine([(1 / len(scored), r) for r in scored]), headline=True)
    )
    rows.append(Row(DEFAULT_LAYOUT, "limit", rates[DEFAULT_LAYOUT]))
    rows += [Row(_statistics(kind), "ours", rates[_statistics(kind)]) for kind in ("hard", "soft")]
    rows += [Row(_plain(*pass_), "baseline", rates[_plain(*pass_)]) for pass_ in plain_passes]
    return rows


def _rows_of(
    rates: dict[str, tuple[float, ...]],
    augmentations: Sequence[str],
    plain: dict[str, str],
    way: Way,
) -> list[Row]:
    """Our passes one way, their mean, and a whole scoring."""
    limit, ours = _limit(way[0]), {a: rates[_pass(a, way)] for a in augmentations}
    rows = [
        Row(_pass(a, way), "ours", r, baseline=plain[parse(a)[0]], limit=limit)
        for a, r in ours.items()
    ]
    mean = combine([(1 / len(ours), r) for r in ours.values()])
    near = "limit <= 1.25"
    rows.append(Row(_average(way), "ours", mean, limit=limit, target=near, headline=True))
    # `scoring.rank` adds two passes for T. stddev, with crop and mirror alone; all candidates
    # share them.
    base = [(1 / len(ours), ours[a]) for a in ("none", "none+cutmix")]
    scored = []
    for a in augmentations:
        kind = _statistics("soft" if a.endswith("+cutmix") else "hard")
        scored.append(combine([(1, ours[a]), *base, (1, rates[kind])]))
    whole = combine([(1 / len(scored), r) for r in scored])
    apart, together = (_teachers(way, t) for t in (False, True))
    rows.append(Row(apart, "ours", rates[apart]))
    rows.append(Row(together, "ours", rates[together], baseline=apart, headline=True))
    name, goal = f"an augmentation scored by us, {_named(way)}", "baseline >= 80"
    return [*rows, Row(name, "ours", whole, baseline=PLAIN, target=goal, headline=True)]


# ------------------------------------------------------------------------------------------- memory


def prepare_rank(setting: Setting, count: int) -> Callable[[], None]:
    """In a fresh process, on noise, since CIFAR-10 would be read whole: `scoring.rank` of two
    candidates.

    Sixteen take no more: `rank` keeps one candidate's pass at a time, beside the two base passes.
    """
    teacher, data = frozen(build(setting.model, 10), setting), noise(count, 10).to(setting.device)

    def run() -> None:
        scoring.rank(teacher, data, ("randaugment", "randaugment+cutmix"), replicates=20)

    return run


def prepare_plain(
    setting: Setting, count: int, passes: Sequence[tuple[str, int]]
) -> Callable[[int], None]:
    """In a process of its own: the baseline's passes, (policy, workers) each, to be called by their
    numbers.
    """
    teacher, data = build(setting.model, 10).to(setting.device).eval(), images(setting, count)
    loaders = [
        baseline.loader(data, policy, BATCH, workers, shuffle=False) for policy, workers in passes
    ]

    def call(number: int) -> None:
        for _ in baseline.predictions(teacher, loaders[number], 10, False):
            pass
        setting.synchronise()

    return call


def prepare_plain_once(setting: Setting, count: int) -> Callable[[], None]:
    """In a fresh process: one plain pass over noise, without workers."""
    teacher, data = (
        build(setting.model, 10).to(setting.device).eval(),
        noise(count, 10).to(setting.device),
    )

    def run() -> None:
        for _ in baseline.predictions(
            teacher, baseline.loader(data, "randaugment", BATCH, 0, False), 10, False
        ):
            pass

    return run


def _memory(setting: Setting, report: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Peaks, over what imports take, of the ranking and of a plain pass, for two numbers of images
    each.
    """
    found = []
    for name, prepare in (
        ("our ranking", prepare_rank),
        ("one plain pass, 0 workers", prepare_plain_once),
    ):
        for count in setting.pick((50,), (2_000, 8_000), (12_500, 50_000)):
            answer = alone(prepare, (setting, count), setting.threads)
            found.append(
                {
                    "name": name,
                    "images": count,
                    "host_bytes": answer.host_bytes,
                    "device_bytes": answer.device_bytes,
                }
            )
            report(f"memory of {name}, {count} images: {answer.host_bytes / 1e6:.0f} MB")
    return found
