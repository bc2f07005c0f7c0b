"""A race of augmentations: the best one for a tenth of the forward passes.

`scoring.rank` sends every image through the teacher once for each candidate. Most candidates are so
much worse than the best that a few hundred images show it. `rank_within` starts all of them on a
class-balanced part of the images and lets only those go on, on more images, whose order is still
open. What makes that sound:

**Differences, not scores.** All candidates see the same images in the same order, at the same crop,
mirrored alike, under the same CutMix boxes. What images and boxes do to all candidates drops out of
the *difference* of two scores, so it is the interval of the difference that decides. On 2,000
images of CIFAR-10 its standard error is 0.005 between "none" and "augmix", 0.008 between
"none+cutmix" and "erasing+cutmix"; passes over images of their own would give 0.014 and 0.024.

`estimates` says how large the error of a difference is, and what few images do to a score.

**Many looks.** To lose the best of K candidates, one of K - 1 rivals has to look better by mistake
in one of the rounds. So the tests of a pair share (1 - confidence) / (top (K - 1)), Bonferroni's
correction. The rounds share it by `level_of`, as the images of a round are part of the next one's.
Nothing that was settled or dropped is tested again.

**What is approximate.** On one or two hundred images the differences have heavier tails than
Student's t says, so that at such small levels a pair is settled by mistake more often than its test
allows.

**How near the bound.** `least_images` is what any comparison on the same images needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from scipy.optimize import brentq
from torch import Tensor

from ..augment import AUGMENTATIONS, Candidate, candidates, generator
from ..basics.checks import anything, checked, number, require
from ..data.streams import Shelf, shelf
from .estimates import BOX, Estimate, difference, estimate, margin, standard_error
from .metrics import check_counts
from .options import Scoring
from .streaming import look_of, read, scale_of
from .teachers import device_of, evaluating, teacher_kind

FIRST = 100  # images of the first round at least, 20 CutMix batches
TRIED = 10  # images that are looked at twice more, to see that the teacher is steady
ORDER, VIEWS, BOXES = 0xB0D6, 0xB0D7, 0xB0D8  # keys of the streams of random numbers


# ----------------------------------------------------------------------------------------- the race


@dataclass(frozen=True)
class Race:
    """How a race of K candidates ended.

    estimates  one dict a candidate: images -> what they said of it, a round each.
    better     (K, K) bool: [i, j] if i was shown to be better than j.
    active     (K,) bool: some order that matters is still open. dropped  (K,) bool: `top` others
               are better.
    used       images x candidates. level  of each one-sided test. stopped  "settled", "budget" or
    "images".
    """

    estimates: list[dict[int, Estimate]]
    better: np.ndarray
    active: np.ndarray
    dropped: np.ndarray
    used: int
    level: float
    stopped: str

    @property
    def last(self) -> list[Estimate]:
        """Each candidate's estimate on the most images."""
        return [rounds[max(rounds)] for rounds in self.estimates]

    def pair(self, i: int, j: int) -> tuple[Estimate, Estimate]:
        """Two candidates' estimates on the most images that both have seen."""
        n = min(max(self.estimates[i]), max(self.estimates[j]))
        return self.estimates[i][n], self.estimates[j][n]


def schedule(images: int, candidates: int, allowed: int, start: int, growth: float) -> list[int]:
    """Images a candidate after each round: times `growth`, as far as the budget reaches if only two
    candidates go on.

    >>> schedule(images=20_000, candidates=16, allowed=32_000, start=500, growth=2)
    [500, 1000, 2000, 4000, 8000, 12500]
    """
    most = min(images, start + (allowed - candidates * start) // 2)
    sizes = [start]
    while sizes[-1] < most:
        sizes.append(min(max(int(sizes[-1] * growth) // BOX * BOX, sizes[-1] + BOX), most))
    return sizes


def level_of(sizes: Sequence[int], chance: float) -> float:
    """Of each of the tests after so many images, one-sided, that together err with this chance.

    That any errs has at most the sum of their chances, less that of each two neighbours to err
    together (Hunter, 1976). Two means have the correlation (n / m)^(1/2), of n images among m.

    >>> [round(level_of(sizes, 0.05), 4) for sizes in ([100], [100, 150], [100, 10_000])]
    [0.05, 0.0329, 0.0255]
    """
    rho = np.sqrt(np.divide(sizes[:-1], sizes[1:]))[:, None]

    def spent(level: float) -> float:
        z = stats.norm.isf(level)
        x = z + np.linspace(0, 9, 500)
        both = stats.norm.pdf(x) * stats.norm.cdf((rho * x - z) / np.sqrt(1 - rho**2))
        return len(sizes) * level - np.trapezoid(both, x).sum()

    return brentq(lambda level: spent(level) - chance, chance / len(sizes), chance)


def race(
    look: Callable[[Sequence[int], int, int], Sequence[Estimate]],
    candidates: int,
    sizes: Sequence[int],
    images: int,
    allowed: int,
    top: int = 1,
    confidence: float = 0.95,
) -> Race:
    """Give images to candidates, round by round, until the best `top` and their order are known.

    look     (candidates, images they have seen, images they shall have seen) -> their estimates on
             the latter.
    sizes    images after each round, growing; the last ones are cut down to what the budget has
             left.
    allowed  images x candidates that may be looked at; `candidates` times the first size must not
    exceed it.
    """
    level = level_of(sizes, (1 - confidence) / max(1, top * (candidates - 1)))
    estimates: list[dict[int, Estimate]] = [{} for _ in range(candidates)]
    better = np.zeros((candidates, candidates), bool)
    active, dropped = np.ones(candidates, bool), np.zeros(candidates, bool)
    used = n = 0
    for size in sizes:
        members = np.flatnonzero(active)
        size = min(size, n + (allowed - used) // len(members))
        size -= size % BOX if size < images else 0  # whole CutMix batches
        if size <= n:
            break
        for i, found in zip(members, look(members.tolist(), n, size), strict=True):
            estimates[i][size] = found
        used, n = used + len(members) * (size - n), size
        for i in members:
            for j in members:
                if i != j and not better[i, j] and not better[j, i]:
                    better[i, j] = difference(estimates[j][n], estimates[i][n], level)[0] > 0
        for k in range(candidates):  # better than one that is better
            better |= better[:, k, None] & better[k] & ~better.T
        dropped = better.sum(0) >= top
        known = better | better.T | dropped | dropped[:, None] | np.eye(candidates, dtype=bool)
        # Two that are both still in for the top and not ordered: one of the places 1 .. top is open
        # between them.
        active = ~known.all(1)
        if not active.any():
            break
    stopped = "settled" if not active.any() else "images" if n == images else "budget"
    return Race(estimates, better, active, dropped, used, level, stopped)


def least_images(
    gaps: np.ndarray, sigmas: np.ndarray, images: int, top: int = 1, confidence: float = 0.95
) -> np.ndarray:
    """How many images each of K candidates must be looked at, by any method that compares them on
    the same images, to find the best `top` in their order.

    gaps, sigmas  (K - 1,) of the candidates behind the best: the score's distance to the one before
                  it in the top, or to the last of the top; and the deviation of that difference,
                  its standard error times the square root of the images.
    images        N, of which nobody needs more.
    Returns (K,) float64, best first. To tell two apart, erring with chance d = 1 - confidence at
    most, takes 2 (sigma / gap)^2 kl(d, 1 - d) images on average or more, kl(d, 1 - d) = (1 - 2 d)
    log((1 - d) / d): lemma 1 of Kaufmann, Cappe and Garivier (JMLR 2016) for normal differences.

    # of a sigma of ten gaps, and of one gap: 200 and 2 times kl(0.05, 0.95)
    >>> least_images(np.array([0.1, 1.0]), np.array([1.0, 1.0]), images=10**9).round(1)
    array([530. , 530. ,   5.3])
    """
    chance = min(1 - confidence, 0.5)
    divergence = (1 - 2 * chance) * np.log(1 / chance - 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # two that are the same need all
        each = np.fmin(2 * divergence * (sigmas / gaps) ** 2, images)
    needed = np.append(0.0, each)
    np.maximum.at(needed, _before(len(needed), top), each)
    return needed


def _before(candidates: int, top: int) -> np.ndarray:
    """(K - 1,) which one, best first, each of the others has to be told from."""
    return np.minimum(np.arange(1, candidates), top) - 1


def _bound(run: Race, order: np.ndarray, images: int, top: int, confidence: float) -> float:
    """`least_images` by a race's own estimates, as a share of images x candidates."""
    pairs = [
        run.pair(*each) for each in zip(order[1:], order[_before(len(order), top)], strict=True)
    ]
    gaps = np.array([a.values[0] - b.values[0] for a, b in pairs])
    errors = [standard_error((a.influences - b.influences)[:, 0]) for a, b in pairs]
    sigmas = np.array(errors) * np.sqrt([a.images for a, _ in pairs])
    return least_images(gaps, sigmas, images, top, confidence).mean() / images


def _table(names: Sequence[str], run: Race) -> tuple[pd.DataFrame, np.ndarray]:
    """The columns described at `rank_within`, best first, and the candidates in that order."""
    last, ahead = run.last, (run.better & ~run.dropped).sum(0)
    # Of those still in, fewest better ones first, then by score: they saw the same images, or their
    # order is settled.
    leader = min(np.flatnonzero(~run.dropped), key=lambda i: (ahead[i], last[i].values[0]))
    rows = []
    for i, name in enumerate(names):
        own, (low, behind, high) = last[i], difference(*run.pair(i, leader), run.level)
        half = margin(own.influences[:, 0], 0.975)
        row = {"augmentation": name, "score": own.values[0]}
        row |= {"score_low": own.values[0] - half, "score_high": own.values[0] + half}
        row |= {"cmi": own.values[1], "divergence": own.values[2]}
        row |= {"behind": behind, "behind_low": low, "behind_high": high, "images": own.images}
        rows.append(row)
    table = pd.DataFrame(rows)
    table["state"] = np.select([run.dropped, run.active], ["dropped", "open"], "settled")
    by_score = np.where(run.dropped, table["behind"], table["score"])
    order = np.lexsort([by_score, np.where(run.dropped, 0, ahead), run.dropped])
    table = table.iloc[order].reset_index(drop=True)
    table.insert(0, "rank", range(1, len(table) + 1))
    return table, order


# ---------------------------------------------------------------------------------------- a teacher


def nested_order(labels: Tensor, seed: int = 0) -> Tensor:
    """All images in a random order in which every beginning has each class in its share of the
    whole.

    labels  (N,) int64. Returns (N,) int64 indices on the CPU. If the classes are equally frequent,
    the first n images hold each of them n / C times, rounded up or down; if not, in proportion,
    because that is what all images together would score. The first C places hold one image of every
    class, so that none is missing from a beginning.

    >>> nested_order(torch.tensor([0, 0, 0, 0, 1, 1]))[:2].sort().values < torch.tensor([4, 6])
    tensor([True, True])
    """
    rng = generator(seed, ORDER)
    values = labels.cpu().numpy()
    place = np.empty(len(values))
    for label in np.unique(values):
        members = rng.permutation(np.flatnonzero(values == label))
        place[members] = (np.arange(len(members)) + rng.random(len(members))) / len(members)
        place[members[0]] -= 1
    return torch.from_numpy(place.argsort())


@checked(teacher=teacher_kind, augmentations=anything, data=anything, growth=number("(1, inf)"))
def rank_within(
    teacher: Callable,
    data: Any,
    augmentations: Sequence[Any] | Mapping[str, Any] = AUGMENTATIONS,
    budget: float = 0.1,
    *,
    top: int = 1,
    confidence: float = 0.95,
    start: int | None = None,
    growth: float = 1.5,
    **options: Any,
) -> pd.DataFrame:
    """The best augmentations by the score of `scoring.rank`, from a share of its forward passes.

    teacher, data, augmentations  as for `scoring.rank`. The data must be readable at any place,
                which generators are not. Its labels are read first, once, unless the source lists
                them as torchvision's folders do. What a transform draws once a batch it draws for
                every 5 images here, as CutMix.
    budget      share of (images x candidates) that may pass through the teacher in all, above 0 and
                at most 1. Less is used if the order is settled before.
    top         how many of the best are to be found, in their order.
    confidence  with which they, and their order, are right if the result is settled.
    start       images in the first round; None: a hundred, and ten a class, as far as the budget
                allows: errors need them. growth  factor from round to round.
    options     those of `scoring.Scoring`; batch is rounded down to whole CutMix batches of 5.

    Returns one row an augmentation: rank, augmentation, score (nats; what all images would give,
    estimated) with its 95 % interval score_low and score_high, cmi, divergence, behind (the score
    minus that of rank 1 on the same images) with the interval behind_low .. behind_high at the
    level of the tests, images it was judged by, and state: "settled" (in the top), "dropped" (not
    in the top) or "open" (it could not be settled: more budget or more images are needed). The
    dropped ones are ordered by `behind`, not by `score`: on few images all scores may be high or
    low together. `table.attrs` has stopped ("settled", or what was spent: "budget", "images"),
    share (of images x candidates, used), bound (the share that any comparison on the same images
    needs on average, by `least_images` with the race's own gaps and errors) and confidence.
    Raises ValueError as `scoring.rank`; for arguments out of range; for a budget too small to begin
    with (two images a class and 20 in all, for every candidate).

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
    >>> images, labels = torch.randint(0, 256, (400, 3, 8, 8),
    ...     dtype=torch.uint8), torch.arange(400) % 2
    >>> table = rank_within(net, (images, labels), ["none", "augmix+cutmix"], mean=(0.5,) * 3,
    ...     std=(0.25,) * 3)
    >>> table.attrs["share"] <= 0.1, table["images"].tolist()
    (True, [40, 40])
    """
    how, wanted = Scoring(**options), list(candidates(augmentations).values())
    how, base = scale_of(data, how)
    source = shelf(data, how.workers)
    again = "a race needs data that can be read at any place: a data set, or arrays"
    require(source is not None, f"{again}; got {type(data).__name__}")
    require(top <= len(wanted), f"top must lie in 1..{len(wanted)}, got {top}")
    least = f"batch must be at least {BOX}, the images that share a CutMix box, got {how.batch}"
    require(how.batch >= BOX, least)
    labels, images = source.labels(), source.length
    counts = torch.bincount(labels, minlength=source.classes or 0)
    check_counts(counts)
    allowed, first = _first_round(budget, start, images, len(wanted), len(counts))
    sizes = schedule(images, len(wanted), allowed, first, growth)
    with torch.no_grad(), evaluating(teacher), how.watched(allowed) as watch:
        look = _Looks(teacher, source, labels, wanted, how, base, watch)
        run = race(look, len(wanted), sizes, images, allowed, top, confidence)
    table, order = _table([candidate.name for candidate in wanted], run)
    used, bound = run.used / (images * len(wanted)), _bound(run, order, images, top, confidence)
    table.attrs |= {"stopped": run.stopped, "share": used, "bound": bound, "confidence": confidence}
    return table


def _first_round(
    budget: float, start: int | None, images: int, candidates: int, classes: int
) -> tuple[int, int]:
    """Images that may pass through in all, and images a candidate in the first round."""
    allowed = int(budget * images * candidates + 1e-9)
    most, least = allowed // candidates, max(2 * classes, 4 * BOX)
    lets = f"a budget of {budget} lets {most} of {images} images a candidate through"
    require(most >= least, f"{lets}; {classes} classes need at least {least}")
    first = max(min(max(10 * classes, FIRST), most), least) if start is None else start
    good = f"start must lie in {least}..{most} with this budget, got {first}"
    require(least <= first <= most, good)
    return allowed, max(first // BOX, 4) * BOX if first < images else images


class _Looks:
    """What the teacher says of candidates' images so far: called with (candidates, begin, end), it
    lets them look at the images in between, each read once, and returns their estimates from all
    that they have seen.
    """

    def __init__(
        self,
        teacher: Callable,
        source: Shelf,
        labels: Tensor,
        wanted: Sequence[Candidate],
        how: Scoring,
        base: tuple[bool, int, int | None],
        watch: Callable[[int, str], None],
    ):
        self.teacher, self.source, self.labels, self.wanted = teacher, source, labels, wanted
        self.how, self.base, self.watch, self.look = how, base, watch, None
        self.classes, self.order = int(labels.max()) + 1, nested_order(labels, how.seed)
        self.seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in wanted]

    def __call__(self, members: Sequence[int], begin: int, end: int) -> list[Estimate]:
        # Neighbours are CutMix partners: within a round they are random, not one of every class in
        # turn.
        shuffled = torch.from_numpy(generator(self.how.seed, ORDER, begin).permutation(end - begin))
        places, place = self.order[begin:end][shuffled], begin
        batches = self.source.read(places.numpy(), self.how.batch // BOX * BOX)
        for images, labels in read(batches, self.how.seed):
            known = self.labels[places[place - begin :][: len(labels)]]
            other = "the labels that the data set lists are not those that it gives"
            require(labels.equal(known), f"{other}: {known.tolist()} and {labels.tolist()}")
            device = device_of(self.teacher, images)
            for i in members:
                self.seen[i].append(self._looked(i, images.to(device), labels.to(device), place))
            place += len(labels)
        found = []
        for i in members:
            self.seen[i] = [tuple(map(torch.cat, zip(*self.seen[i], strict=True)))]
            found.append(estimate(*self.seen[i][0], self.source.length, self.how.cmi_weight))
        return found

    def _looked(self, i: int, images: Tensor, labels: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Logits and targets of images that take the places `place` and on of the pass.

        Random numbers depend on the place, not on the candidate, so that all candidates share
        crops, mirrors and boxes.
        """
        candidate, how = self.wanted[i], self.how
        if self.look is None:
            self.look = look_of(self.teacher, images[:TRIED], self.wanted, how, self.base)
            self.look.check_classes(self.classes)
        self.watch(len(images), candidate.name)
        key, alone = (how.seed, VIEWS, place), replace(candidate, transform=None, mixing="")
        views, targets = alone.views(images, labels, self.classes, key, *self.base)
        if candidate.transform is not None or candidate.mixing:
            rng = generator(how.seed, BOXES, place)
            views, targets = candidate.finish(views, targets, self.classes, key, rng, BOX)
        return self.look(views), targets
