"""What the first images of a pass say of a score, and of the difference of two: values, corrected
for few images, and their errors.

**CutMix.** The images of a batch share a box and each shares half of its neighbour: they are one
observation, not many. Errors take such batches whole. A box is drawn for every 5 images instead of
every 100 as in `scoring.rank`: what is expected of an image is the same (a random partner and a
random box), but 20 times as many boxes stand behind the mean. Even so the variance is 1.3 to 1.6
times what images taken for independent would show.

**The error** is that of the infinitesimal jackknife (Jaeckel, 1972): how far more weight on one
batch would move the score, to first order. The influences of two candidates, subtracted batch by
batch, give the standard error of the difference and, with Student's t, its interval. C centroids
are fitted to n images, so the variance is n / (n - C) times theirs, as in a regression (HC1 of
MacKinnon and White, 1985). Errors from batches left out, which are too large on average (Efron and
Stein, 1981), were 1.1 to 1.5 times as large as the spread on 100 images of 10 classes.

**The bias of few images.** Centroids fitted to the images at hand lower CMI and raise D, by an
amount of order 1/n that is the greater the more a candidate's predictions scatter: uncorrected, few
images favour the tame candidates. Leaving groups of batches out shows this bias b(n). On 100 of the
digits it is 0.018 nats for "none" and 0.12 for "trivialaugment", whose true scores differ by 0.10
the other way; the correction leaves less than 0.01 of it. On 500 images of CIFAR-10 it is 0.012 to
0.019. Taken off is b(n) (1 - n/N), so that the score estimates what `scoring.score` gives for all N
images, whose own bias b(N) belongs to its definition and stays.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ..basics.checks import checked, require
from .metrics import PASS, TINY, check_counts, log_softmax, soft_labels

BOX = 5  # images that share a CutMix box
GROUPS = 50  # are left out in turn, at most


@dataclass(frozen=True)
class Estimate:
    """What the first `images` images say of a candidate. The three numbers are score, cmi and
    divergence, in nats.

    values      (3,) float64, corrected for few images. bias  (3,) what the correction took off.
    influences  (batches, 3) float64: how far each CutMix batch moves the values. They sum to about
                0; see `standard_error`.
    """

    images: int
    values: np.ndarray
    bias: np.ndarray
    influences: np.ndarray


@checked(**PASS)
def estimate(logits: Tensor, targets: Tensor, population: int, cmi_weight: float = 1.0) -> Estimate:
    """The score that `population` images would give by `scoring.score`, estimated from the first of
    them.

    logits, targets  as for `scoring.score`, in the order of the pass: every `BOX` consecutive
                     images are one CutMix batch.
    population       N, at least their number; then the values are exactly those of `scoring.score`.
    Raises ValueError as `scoring.score`, for fewer than two CutMix batches, and for no more images
    than classes.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 9.0]]).repeat(10,
    ...     1), torch.tensor([0, 1, 1]).repeat(10)
    >>> found = estimate(logits, labels, population=30)
    >>> from paperlib.scoring import score
    >>> found.influences.shape, bool(abs(found.values[0] - score(logits, labels).score) < 1e-6)
    ((6, 3), True)
    """
    log_p, (n, classes) = log_softmax(logits), logits.shape
    t, p = soft_labels(targets, n, classes), log_p.exp()
    need = f"an error needs more than {max(BOX, classes)} images of {classes} classes, got {n}"
    require(n > max(BOX, classes), need)
    require(population >= n, f"{n} images cannot be drawn from a population of {population}")
    check_counts(t.sum(0))
    influences = _influences(log_p, t, p) * np.sqrt(n / (n - classes))
    plain, bias = _left_out(log_p, t, p, hard=not targets.is_floating_point())
    bias *= 1 - n / population
    columns = [_with_score(x, cmi_weight) for x in (plain - bias, bias, influences)]
    return Estimate(n, *columns)


def _with_score(values: np.ndarray, cmi_weight: float) -> np.ndarray:
    """(..., 2) cmi and divergence -> (..., 3), the score before them."""
    value, divergence = values[..., 0], values[..., 1]
    return np.stack([divergence - cmi_weight * value, value, divergence], -1)


def _influences(log_p: Tensor, t: Tensor, p: Tensor) -> np.ndarray:
    """(batches, 2) of cmi and divergence: their derivatives by the weights of the images, summed
    over each CutMix batch.
    """
    counts = t.sum(0)
    q = (t.T @ p / counts.unsqueeze(1)).clamp(min=TINY)
    mixed, own = (t @ q).clamp(min=TINY), q.diagonal()
    kl = (p * (log_p - mixed.log())).sum(1)
    # An image moves the centroids, and these the others' divergences. Of hard labels that is 0.
    pull = t.T @ (p / mixed) / counts.unsqueeze(1)
    moved = (t * (p @ pull.T - (q * pull).sum(1))).sum(1)
    divergence = -(t * (p - own) / (counts * own)).mean(1)
    each = torch.stack([(kl - kl.mean() - moved) / len(p), divergence], 1)
    return torch.stack([batch.sum(0) for batch in each.split(BOX)]).cpu().numpy()


def _left_out(log_p: Tensor, t: Tensor, p: Tensor, hard: bool) -> tuple[np.ndarray, np.ndarray]:
    """cmi and divergence, (2,), and their biases by the jackknife over groups of whole batches."""
    batches = -(-len(p) // BOX)
    edges = BOX * np.linspace(0, batches, min(GROUPS, batches) + 1).round().astype(int)
    edges = np.minimum(edges, len(p))
    sizes = np.diff(edges).tolist()
    counts, sums, entropies = _group_sums(log_p, t, p, sizes)
    # Leave each group out. Where that would lose a class, count each group twice: less exact.
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
    weights = len(p) + np.array([0, *(step * size for size in sizes)])
    value = (entropies - cross).cpu().numpy() / weights
    divergence = -log_q.diagonal(dim1=1, dim2=2).mean(1).cpu().numpy()
    table = np.column_stack([value, divergence])
    # A group of m images weighted 1 + step moves the distribution by step m / (n + step m) towards
    # the group's own.
    moved = ((table[1:] - table[0]) * (weights[1:] / len(p))[:, None]).sum(0)
    return table[0], moved * (1 + step / len(sizes))


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
    """Of the estimate whose batches have these influences, (batches,) float64; of a difference, for
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
    half = margin(influences, 1 - level)
    return change - half, change, change + half


def margin(influences: np.ndarray, quantile: float) -> float:
    """From an estimate to the end of its interval: Student's t at the quantile times its error."""
    return stats.t.ppf(quantile, len(influences) - 1) * standard_error(influences)
