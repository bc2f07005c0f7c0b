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

**CutMix.** The images of a batch share a box and each shares half of its neighbour: they are one
observation, not many. Resampling takes such batches whole. A box is drawn for every 5 images
instead of every 100 as in `scoring.rank`: what is expected of an image is the same (a random
partner and a random box), but 20 times as many boxes stand behind the mean. Even so the variance is
1.3 to 1.6 times what images taken for independent would show.

**The jackknife.** The images lie in up to 50 groups of whole CutMix batches. Leaving out one group
moves the score by that group's influence. The influences of two candidates, subtracted group by
group, give the standard error of the difference and, with Student's t, its interval; it takes the
place of a paired bootstrap and shows the bias too. Groups are not class-balanced though the images
as a whole are, and the images are a part of a finite set: both make intervals rather too wide.

**The bias of few images.** Centroids fitted to the images at hand lower CMI and raise D, by an
amount of order 1/n that is the greater the more a candidate's predictions scatter: uncorrected, few
images favour the tame candidates. Leaving groups out shows this bias b(n). On 100 of the digits it
is 0.018 nats for "none" and 0.12 for "trivialaugment", whose true scores differ by 0.10 the other
way; the correction leaves less than 0.01 of it. On 500 images of CIFAR-10 it is 0.012 to 0.019.
Taken off is b(n) (1 - n/N), so that the score estimates what `scoring.score` gives for all N
images, whose own bias b(N) belongs to its definition and stays.

**Many looks.** To lose the best of K candidates, one of K - 1 rivals has to look better by mistake
in one of R rounds. So each one-sided test gets (1 - confidence) / (top (K - 1) R), Bonferroni's
correction, and nothing that was settled or dropped is tested again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from ..augment import AUGMENTATIONS, Candidate, candidates, generator
from ..basics.checks import anything, checked, number, require
from ..data.streams import Shelf, shelf
from .metrics import PASS, TINY, check_counts, log_softmax, soft_labels
from .options import Scoring
from .streaming import look_of, read, scale_of
from .teachers import device_of, evaluating, teacher_kind

BOX = 5  # images that share a CutMix box
TRIED = 10  # images that are looked at twice more, to see that the teacher is steady
GROUPS = 50  # of the jackknife, at most
ORDER, VIEWS, BOXES = 0xB0D6, 0xB0D7, 0xB0D8  # keys of the streams of random numbers


# ------------------------------------------------------------------------------------ one candidate


@dataclass(frozen=True)
class Estimate:
    """What the first `images` images say of a candidate. The three numbers are score, cmi and
    divergence, in nats.

    values      (3,) float64, corrected for few images. bias  (3,) what the correction took off.
    influences  (groups, 3) float64: how far each group of images moves the values. They sum to
                about 0; see `standard_error`.
    """

    images: int
    values: np.ndarray
    bias: np.ndarray
    influences: np.ndarray


@checked(**PASS)
def estimate(logits: Tensor, targets: Tensor, population: int, cmi_weight: float = 1.0) -> Estimate:
    """The score that `population` images would give by `scoring.score`, estimated from the first of
    them by the jackknife.

    logits, targets  as for `scoring.score`, in the order of the pass: every `BOX` consecutive
                     images are one CutMix batch.
    population       N, at least their number; then the values are exactly those of `scoring.score`.
    Raises ValueError as `scoring.score`, and for fewer than two CutMix batches.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 9.0]]).repeat(10,
    ...     1), torch.tensor([0, 1, 1]).repeat(10)
    >>> found = estimate(logits, labels, population=30)
    >>> from paperlib.scoring import score
    >>> found.influences.shape, bool(abs(found.values[0] - score(logits, labels).score) < 1e-6)
    ((6, 3), True)
    """
    log_p, n = log_softmax(logits), len(logits)
    hard, t, p = not targets.is_floating_point(), soft_labels(targets, *logits.shape), log_p.exp()
    batches = -(-n // BOX)
    require(batches > 1, f"the jackknife needs more than {BOX} images, got {n}")
    require(population >= n, f"{n} images cannot be drawn from a population of {population}")
    edges = BOX * np.linspace(0, batches, min(GROUPS, batches) + 1).round().astype(int)
    edges = np.minimum(edges, n)
    sizes = np.diff(edges).tolist()
    counts, sums, entropies = _group_sums(log_p, t, p, sizes)
    check_counts(counts.sum(0))
    # Leave each group out. Where that would lose a class, count each group twice: less exact for
    # the bias.
    step = -1 if (counts.sum(0) - counts > 1e-6).all() else 1
    counts, sums, entropies = (_all_and_without(x, step) for x in (counts, sums, entropies))
    q = (sums / counts.unsqueeze(2)).clamp(min=TINY)
    log_q = q.log()
    if hard:  # the cross term is then the entropy of the centroids: no logarithm per image
        cross = (counts * (q * log_q).sum(2)).sum(1)
    else:
        cross = torch.empty_like(entropies)
        for k, centroids in enumerate(q):
            rows = (p * (t @ centroids).clamp(min=TINY).log()).sum(1)
            cross[k] = rows.sum() + (step * rows[edges[k - 1] : edges[k]].sum() if k else 0)
    weights = np.array([n, *(n + step * size for size in sizes)])
    value = (entropies - cross).cpu().numpy() / weights
    divergence = -log_q.diagonal(dim1=1, dim2=2).mean(1).cpu().numpy()
    table = np.column_stack([divergence - cmi_weight * value, value, divergence])
    # A group of m images weighted 1 + step moves the distribution by step m / (n + step m) towards
    # the group's own.
    influences = step * (table[1:] - table[0]) * (weights[1:] / n)[:, None]
    bias = step * influences.sum(0) * (1 + step / len(sizes)) * (1 - n / population)
    return Estimate(n, table[0] - bias, bias, influences)


def _group_sums(
    log_p: Tensor, t: Tensor, p: Tensor, sizes: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each group: images of a class (G, C), the sums of their predictions (G, C, C), and
    negative entropies (G,).
    """
    parts = list(zip(t.split(sizes), p.split(sizes), strict=True))
    counts = torch.stack([u.sum(0) for u, _ in parts])
    sums = torch.stack([u.T @ v for u, v in parts])
    return counts, sums, torch.stack([x.sum() for x in (p * log_p).sum(1).split(sizes)])


def _all_and_without(sums: Tensor, step: int) -> Tensor:
    """(G, ...) sums over groups -> (1 + G, ...): over all images, then with each group once more
    (step 1) or less (-1).
    """
    total = sums.sum(0, keepdim=True)
    return torch.cat([total, total + step * sums])


def standard_error(influences: np.ndarray) -> float:
    """Of the estimate whose groups have these influences, (groups,) float64; of a difference, for
    their differences.

    # of the mean of four numbers 1, -1, 1, -1
    >>> round(standard_error(np.array([1.0, -1.0, 1.0, -1.0]) / 4), 3)
    0.577
    """
    m = len(influences)
    return float(np.sqrt(m / (m - 1) * ((influences - influences.mean()) ** 2).sum()))


def difference(a: Estimate, b: Estimate, level: float) -> tuple[float, float, float]:
    """score a - score b on the same images, and its interval: (low, difference, high), each side
    missed with chance `level`.

    Raises ValueError if the two are not of equally many images.
    """
    same = f"paired scores must be of the same images, got {a.images} and {b.images}"
    require(a.images == b.images, same)
    change, influences = float(a.values[0] - b.values[0]), a.influences[:, 0] - b.influences[:, 0]
    margin = _margin(influences, 1 - level)
    return change - margin, change, change + margin


def _margin(influences: np.ndarray, quantile: float) -> float:
    """From an estimate to the end of its interval: Student's t at the quantile times its error."""
    return stats.t.ppf(quantile, len(influences) - 1) * standard_error(influences)


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
    level = (1 - confidence) / max(1, top * (candidates - 1) * len(sizes))
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


def _table(names: Sequence[str], run: Race) -> pd.DataFrame:
    """The columns described at `rank_within`, best first."""
    last, ahead = run.last, (run.better & ~run.dropped).sum(0)
    # Of those still in, fewest better ones first, then by score: they saw the same images, or their
    # order is settled.
    leader = min(np.flatnonzero(~run.dropped), key=lambda i: (ahead[i], last[i].values[0]))
    rows = []
    for i, name in enumerate(names):
        own, n = last[i], min(last[i].images, last[leader].images)
        low, behind, high = difference(run.estimates[i][n], run.estimates[leader][n], run.level)
        margin = _margin(own.influences[:, 0], 0.975)
        row = {"augmentation": name, "score": own.values[0]}
        row |= {"score_low": own.values[0] - margin, "score_high": own.values[0] + margin}
        row |= {"cmi": own.values[1], "divergence": own.values[2]}
        row |= {"behind": behind, "behind_low": low, "behind_high": high, "images": own.images}
        rows.append(row)
    table = pd.DataFrame(rows)
    table["state"] = np.select([run.dropped, run.active], ["dropped", "open"], "settled")
    by_score = np.where(run.dropped, table["behind"], table["score"])
    order = np.lexsort([by_score, np.where(run.dropped, 0, ahead), run.dropped])
    table = table.iloc[order].reset_index(drop=True)
    table.insert(0, "rank", range(1, len(table) + 1))
    return table


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
    growth: float = 2.0,
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
    start       images in the first round; None: a quarter of the budget's images a candidate, but
                ten a class at least, as far as the budget allows. growth  factor from round to
                round.
    options     those of `scoring.Scoring`; batch is rounded down to whole CutMix batches of 5.

    Returns one row an augmentation: rank, augmentation, score (nats; what all images would give,
    estimated) with its 95 % interval score_low and score_high, cmi, divergence, behind (the score
    minus that of rank 1 on the same images) with the interval behind_low .. behind_high at the
    level of the tests, images it was judged by, and state: "settled" (in the top), "dropped" (not
    in the top) or "open" (it could not be settled: more budget or more images are needed). The
    dropped ones are ordered by `behind`, not by `score`: on few images all scores may be high or
    low together. `table.attrs` has stopped ("settled", or what was spent: "budget", "images"),
    share (of images x candidates, used) and confidence.
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
    table = _table([candidate.name for candidate in wanted], run)
    used = run.used / (images * len(wanted))
    table.attrs |= {"stopped": run.stopped, "share": used, "confidence": confidence}
    return table


def _first_round(
    budget: float, start: int | None, images: int, candidates: int, classes: int
) -> tuple[int, int]:
    """Images that may pass through in all, and images a candidate in the first round."""
    allowed = int(budget * images * candidates + 1e-9)
    most, least = allowed // candidates, max(2 * classes, 4 * BOX)
    lets = f"a budget of {budget} lets {most} of {images} images a candidate through"
    require(most >= least, f"{lets}; {classes} classes need at least {least}")
    first = max(min(max(most // 4, 10 * classes), most), least) if start is None else start
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
