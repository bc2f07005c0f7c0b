"""Scoring augmentations with the teacher alone: contextual mutual information against centroid
divergence.

P_x is the teacher's softmax output on an augmented image x, Q_y the mean of P_x over the images of
class y. Then

    CMI = mean_x KL(P_x || Q_{y(x)})          large: predictions keep what is not about the label
    D   = mean_y -log Q_y[y]                  small: on average a class is still recognised
    M   = D - CMI                             the paper's score, lower is better

(Kur & Zhao, arXiv 2509.03850; CMI is the conditional mutual information I(X; Yhat | Y) of Yang et
al., 2023, and Ye et al., ICLR 2024.) Natural logarithms throughout; probabilities at temperature 1;
sums in float64.

**One pass or two.** The released code fits the centroids on one random pass over the images and
evaluates on another. Here one pass serves both: `rank` stores the teacher's probabilities of one
augmented pass and computes everything from them. The centroid is the mean that minimises mean_x
KL(P_x || Q), so with its own centroids CMI comes out lower than with another pass's, by at most
about (classes squared) / (2 images), and less the less the predictions of a class scatter: 0.001
for CIFAR-10's 50,000 images, up to 0.1 for CIFAR-100's. T. stddev likewise takes its groups from
this pass alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ..augment import generator
from ..basics.checks import arrays, checked, count, require, several
from ..data.checks import distributions, floats, labels_of

TINY = 1e-300  # below the smallest probability a float64 softmax gives: keeps 0 log 0 = 0


@dataclass(frozen=True)
class Score:
    """One augmentation, scored; all in nats. entropy and cross_entropy are means over images of
    H(P_x), -sum t log P_x.
    """

    score: float
    cmi: float
    divergence: float
    entropy: float
    cross_entropy: float


def check_counts(counts: Tensor) -> None:
    """Raise ValueError for a class without an image. counts  (C,) images of each class."""
    empty = counts <= 0
    if empty.any():
        raise ValueError(f"class {int(empty.nonzero()[0])} has no image: it has no centroid")


PASS = {"logits": floats("N C", door=True), "targets": labels_of(soft=True)}
CENTROIDS = floats("C C", door=True)


def soft_labels(targets: Tensor, images: int, classes: int) -> Tensor:
    """Hard (N,) or soft (N, C) targets -> (N, C) float64."""
    soft = targets.is_floating_point()
    return (targets if soft else torch.nn.functional.one_hot(targets, classes)).double()


@checked(probabilities=distributions("N C"), targets=PASS["targets"])
def class_centroids(probabilities: Tensor, targets: Tensor, transposed: bool = False) -> Tensor:
    """Mean prediction of each class: Q_y = sum_x t_x[y] P_x / sum_x t_x[y].

    probabilities  (N, C) float, rows summing to 1. targets  (N,) int64, or (N, C) float soft
                   labels.
    transposed     the released code's variant for soft labels, a fault: it accumulates [predicted,
                   label] instead of [label, predicted] and divides the rows by the label counts.
                   Its rows do not sum to 1.
    Returns (C, C): row y is Q_y; dtype and device of `probabilities`.
    Raises ValueError for NaN, labels out of range, soft labels that do not sum to 1, or a class
    with no image.

    >>> class_centroids(torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    tensor([[0.7500, 0.2500],
            [0.0000, 1.0000]])
    """
    t = soft_labels(targets, *probabilities.shape)
    return _centroids(probabilities.double(), t, transposed).to(probabilities.dtype)


def _centroids(p: Tensor, t: Tensor, transposed: bool = False) -> Tensor:
    counts = t.sum(0)
    check_counts(counts)
    sums = p.T @ t if transposed else t.T @ p
    return sums / counts.unsqueeze(1)


@checked(logits=PASS["logits"])
def log_softmax(logits: Tensor) -> Tensor:
    """(N, C) float logits -> (N, C) float64 logarithms of probabilities; ValueError for NaN."""
    return logits.double().log_softmax(1)


def _divergences(log_p: Tensor, t: Tensor, q: Tensor) -> Tensor:
    """(N,) KL(P_x || Q_t), Q_t the mixture of centroids by the image's label."""
    return (log_p.exp() * (log_p - (t @ q).clamp(min=TINY).log())).sum(1)


@checked(**PASS, centroids=CENTROIDS)
def cmi(logits: Tensor, targets: Tensor, centroids: Tensor | None = None) -> Tensor:
    """Contextual mutual information, mean_x KL(P_x || Q_t) with Q_t = sum_y t_y Q_y; scalar, nats,
    at least 0.

    logits     (N, C) float of the teacher on augmented images. targets  (N,) int64, or (N, C) soft
               labels.
    centroids  (C, C) as from `class_centroids`, for example of another pass; None: of these very
               images. For hard labels the value is then mean_x [H(Q_{y(x)}) - H(P_x)].
    With centroids that are no distributions, the transposed ones, it can be negative.
    Raises ValueError as `class_centroids`.

    >>> round(cmi(torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 9.0]]),
    ...     torch.tensor([0, 0, 1])).item(), 4)
    0.2185
    """
    log_p = log_softmax(logits)
    t = soft_labels(targets, *logits.shape)
    q = _centroids(log_p.exp(), t) if centroids is None else centroids.double()
    # Rounding can take a divergence of identical distributions below 0. The transposed centroids
    # are no distributions: theirs may be negative in earnest, and stays so.
    value = _divergences(log_p, t, q).mean()
    return (value.clamp(min=0) if centroids is None else value).to(logits.dtype)


@checked(centroids=CENTROIDS)
def centroid_divergence(centroids: Tensor) -> Tensor:
    """D = mean_y -log Q_y[y] = mean_y KL(onehot_y || Q_y); scalar, nats, at least 0.

    centroids  (C, C) as from `class_centroids`. Raises ValueError for another shape, NaN, or a
               diagonal outside 0 .. 1.

    >>> centroid_divergence(torch.eye(3))
    tensor(0.)
    """
    own = centroids.diagonal().double()
    wrong = (own < 0) | (own > 1 + 1e-6)
    if wrong.any():
        found = own[wrong][0].item()
        raise ValueError(f"a centroid's own probability must lie in 0..1, got {found}")
    return own.clamp(TINY, 1).log().neg().mean().abs().to(centroids.dtype)  # abs: no negative zero


@checked(**PASS, centroids=CENTROIDS)
def score(
    logits: Tensor, targets: Tensor, cmi_weight: float = 1.0, centroids: Tensor | None = None
) -> Score:
    """The paper's score M = D - cmi_weight * CMI of one augmented pass, lower is better, and its
    parts.

    logits     (N, C) float of the teacher. targets  (N,) int64 labels, or (N, C) float soft labels.
    centroids  (C, C), of another pass; None: of these very images.
    Raises ValueError for NaN, labels out of range, soft labels that do not sum to 1, or a class
    with no image.

    >>> round(score(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])).score, 4)
    0.1269
    """
    log_p = log_softmax(logits)
    t = soft_labels(targets, *logits.shape)
    q = _centroids(log_p.exp(), t) if centroids is None else centroids.double()
    return _score(log_p, t, q, cmi_weight)


def _score(log_p: Tensor, t: Tensor, q: Tensor, cmi_weight: float) -> Score:
    value = float(_divergences(log_p, t, q).mean().clamp(min=0))
    divergence = float(centroid_divergence(q))
    return Score(
        score=divergence - cmi_weight * value,
        cmi=value,
        divergence=divergence,
        entropy=float(-(log_p.exp() * log_p).sum(1).mean()),
        cross_entropy=float(-(t * log_p).sum(1).mean()),
    )


@checked(probabilities=distributions("N C"), group_sizes=several(count, 2))
def teacher_stddev(probabilities: Tensor, group_sizes: Sequence[int]) -> Tensor:
    """T. stddev (Wang et al., NeurIPS 2022): how much the mean prediction varies from group to
    group; lower is better.

    Mean over classes of the unbiased standard deviation, over groups of consecutive images, of the
    group's mean prediction.

    probabilities  (N, C) float. group_sizes  images in each group, in order; images beyond their
    sum are left out. Returns a scalar of the dtype of `probabilities`. Raises ValueError for fewer
    than two groups (undefined), an empty group, or more images than there are.

    >>> teacher_stddev(torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.5, 0.5]]), [2, 1])
    tensor(0.2121)
    """
    sizes, images = list(group_sizes), len(probabilities)
    require(sum(sizes) <= images, f"the groups hold {sum(sizes)} images, there are {images}")
    parts = probabilities[: sum(sizes)].double().split(sizes)
    return torch.stack([part.mean(0) for part in parts]).std(0).mean().to(probabilities.dtype)


@checked(**PASS, replicates=count)
def bootstrap(
    logits: Tensor, targets: Tensor, replicates: int = 200, seed: int = 0, cmi_weight: float = 1.0
) -> dict[str, np.ndarray]:
    """Replicates of score, cmi and divergence under re-weighting of the images.

    The Bayesian bootstrap (Rubin, 1981): weights are exponential instead of counts, so no class is
    ever left without an image. CutMix images count as independent although two share each original.

    logits, targets  as for `score`. Returns {"score", "cmi", "divergence"}: (replicates,) float64
    each. Their spread is that of the estimate; their mean is not, because every replicate fits its
    own centroids and so loses some CMI: see `interval`.
    """
    log_p = log_softmax(logits)
    hard = not targets.is_floating_point()
    t, p = soft_labels(targets, *logits.shape), log_p.exp()
    negative_entropy = (p * log_p).sum(1)
    rng = generator(seed, 0xB007)
    values = {name: np.empty(replicates) for name in ("cmi", "divergence")}
    for b in range(replicates):
        w = torch.from_numpy(rng.standard_exponential(len(p))).to(p.device)
        w /= w.sum()
        counts = (weighted := t * w.unsqueeze(1)).sum(0)
        q = weighted.T @ p / counts.unsqueeze(1)
        log_q = q.clamp(min=TINY).log()
        if hard:  # the cross term is then the entropy of the centroids: no logarithm per image
            cross = (counts * (q * log_q).sum(1)).sum()
        else:
            cross = w @ (p * (t @ q).clamp(min=TINY).log()).sum(1)
        values["cmi"][b] = w @ negative_entropy - cross
        values["divergence"][b] = -log_q.diagonal().mean()
    return {"score": values["divergence"] - cmi_weight * values["cmi"], **values}


@checked(replicates=arrays("f", "R"))
def interval(estimate: float, replicates: np.ndarray) -> tuple[float, float]:
    """95 % interval of an estimate: the middle 95 % of its replicates, moved so that their mean is
    the estimate.

    It tells how far the images at hand decide the estimate, not the small-sample bias of CMI
    described above.

    >>> interval(5.0, np.arange(101.0))
    (-42.5, 52.5)
    """
    low, high = np.percentile(replicates - replicates.mean(), [2.5, 97.5])
    return float(estimate + low), float(estimate + high)


@checked(**PASS)
def evaluate(
    logits: Tensor, targets: Tensor, cmi_weight: float, replicates: int, seed: int
) -> dict[str, float]:
    """Everything one stored pass says of its augmentation but T. stddev: the columns described at
    `rank`.
    """
    log_p, t = log_softmax(logits), soft_labels(targets, *logits.shape)
    q = _centroids(log_p.exp(), t)
    row = asdict(_score(log_p, t, q, cmi_weight))
    largest = log_p.max(1)
    row["error"] = float(1 - t.gather(1, largest.indices.unsqueeze(1)).mean())
    row["confidence"] = float(largest.values.exp().mean())
    row["centroid_entropy"] = float(-(q * q.clamp(min=TINY).log()).sum(1) @ t.mean(0))
    # The fault sits in the released code's path for soft labels; hard labels take another one.
    row["cmi_released"] = row["cmi"]
    if targets.is_floating_point():
        released = _centroids(log_p.exp(), t, transposed=True)
        row["cmi_released"] = float(_divergences(log_p, t, released).mean())
    row["score_released"] = row["divergence"] - cmi_weight * row["cmi_released"]
    if replicates:
        for name, values in bootstrap(logits, targets, replicates, seed, cmi_weight).items():
            row[f"{name}_low"], row[f"{name}_high"] = interval(row[name], values)
    return row | {"images": len(logits)}


@checked(logits=PASS["logits"], labels=labels_of())
def calibrating_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that minimises the cross-entropy of softmax(logits / T) (Guo et al., ICML
    2017), within 0.05 .. 20.

    logits  (N, C) float, on images that the network was not trained on. labels  (N,) int64.
    Raises ValueError for NaN or labels out of range.

    >>> calibrating_temperature(torch.tensor([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0]]),
    ...     torch.tensor([0, 0, 1])) > 5
    True
    """
    wide = logits.double()

    def loss(log_temperature: float) -> float:
        return float(
            torch.nn.functional.cross_entropy(wide / float(np.exp(log_temperature)), labels)
        )

    best = minimize_scalar(
        loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(best.x))


def paired_stddev(logits: Tensor, base: Tensor, groups: list[int]) -> float:
    """T. stddev over groups that hold the augmented views and as many base-augmented views of the
    same images.
    """
    n = sum(groups)
    pairs = zip(logits[:n].split(groups), base[:n].split(groups), strict=True)
    both = torch.cat([half for pair in pairs for half in pair])
    return float(teacher_stddev(both.double().softmax(1), [2 * size for size in groups]))
