"""What `metrics.evaluate` says of a pass, from one batch at a time.

Hard labels need sums alone, which are as large as the classes squared. CutMix and the intervals
need the predictions again: a `Spool` keeps them.
"""

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..augment import generator
from .metrics import TINY, centroid_divergence, check_counts, interval, log_softmax, soft_labels
from .spool import Spool

BLOCK = 1 << 23  # numbers, 64 MB, that the replicates worked on at a time may take


class Groups:
    """Sums of the predictions of so many consecutive images each, for T. stddev."""

    def __init__(self, size: int):
        self.size, self.held, self.classes = size, 0, 1
        self.sums = array("d")  # of whole groups, C numbers each
        self.open: Tensor | float = 0.0  # of the `held` images of the one that is not whole yet

    def add(self, p: Tensor) -> None:
        """(B, C) float64 probabilities of the next images."""
        while len(p):
            some, p = p[: self.size - self.held], p[self.size - self.held :]
            self.open, self.held = self.open + some.sum(0), self.held + len(some)
            if self.held == self.size:
                self.classes = len(self.open)
                self.sums.frombytes(self.open.cpu().numpy().tobytes())
                self.open, self.held = 0.0, 0

    def stddev(self, base: "Groups") -> float:
        """T. stddev over groups that hold these views and as many of another pass; NaN for fewer
        than two.
        """
        if len(self.sums) < 2 * self.classes:
            return float("nan")
        own, other = (np.frombuffer(x.sums).reshape(-1, self.classes) for x in (self, base))
        return float(((own + other) / (2 * self.size)).std(0, ddof=1).mean())


class Tally:
    """One candidate's pass so far.

    classes  C. group  images in a group of T. stddev. spooled  keep the logits, for intervals; with
    soft labels, which the first batch shows, they are kept anyway.
    """

    def __init__(self, classes: int, group: int, spooled: bool = True):
        self.classes, self.groups = classes, Groups(group)
        self.logits = Spool(classes) if spooled else None
        self.soft: Spool | None = None
        self.labels = array("q")  # one object: one a batch would split the memory
        self.images = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """A batch: (B, C) float32, and (B,) int64 or (B, C) float. Raises ValueError for NaN."""
        log_p, hard = log_softmax(logits), not targets.is_floating_point()
        p, t = log_p.exp(), soft_labels(targets, *logits.shape)
        if not self.sums:
            scalars = "own", "confidence", "negative_entropy", "cross_entropy"
            self.sums = {name: p.new_zeros(()) for name in scalars}
            self.sums |= {
                "counts": p.new_zeros(self.classes),
                "p": p.new_zeros((self.classes,) * 2),
            }
        largest = log_p.max(1)
        self.sums["own"] += t.gather(1, largest.indices.unsqueeze(1)).sum()
        self.sums["confidence"] += largest.values.exp().sum()
        self.sums["negative_entropy"] += (p * log_p).sum()
        self.sums["cross_entropy"] -= (t * log_p).sum()
        self.sums["counts"] += t.sum(0)
        if hard:
            self.sums["p"].index_add_(0, targets, p)
        else:
            self.sums["p"].addmm_(t.T, p)
        self.images += len(p)
        self._keep(logits, targets, hard)
        self.groups.add(p)

    def _keep(self, logits: Tensor, targets: Tensor, hard: bool) -> None:
        if hard:
            self.labels.frombytes(targets.cpu().numpy().tobytes())
        else:
            self.soft = self.soft or Spool(self.classes)
            self.logits = self.logits or Spool(self.classes)
            self.soft.append(targets)
        if self.logits is not None:
            self.logits.append(logits)

    def row(self, cmi_weight: float, replicates: int, seed: int) -> dict[str, float]:
        """The columns of `metrics.evaluate`. Raises ValueError for a class without an image."""
        n, counts = self.images, self.sums["counts"]
        check_counts(counts)
        q = self.sums["p"] / counts.unsqueeze(1)
        inner = (q * q.clamp(min=TINY).log()).sum(1)
        negative_entropy = self.sums["negative_entropy"]
        if self.soft is None:
            value = released = max(float(negative_entropy - counts @ inner) / n, 0.0)
        else:
            both = [q, self.sums["p"].T / counts.unsqueeze(1)]  # the released code's fault
            value, released = self._divergences(both)
            value = max(value, 0.0)
        divergence = float(centroid_divergence(q))
        row = {
            "score": divergence - cmi_weight * value,
            "cmi": value,
            "divergence": divergence,
            "entropy": float(-negative_entropy / n),
            "cross_entropy": float(self.sums["cross_entropy"] / n),
            "error": float(1 - self.sums["own"] / n),
            "confidence": float(self.sums["confidence"] / n),
            "centroid_entropy": float(-inner @ counts / n),
            "cmi_released": released,
            "score_released": divergence - cmi_weight * released,
        }
        if replicates:
            for name, values in self._bootstrap(replicates, seed, cmi_weight).items():
                row[f"{name}_low"], row[f"{name}_high"] = interval(row[name], values)
        return row | {"images": n}

    def _read(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Places, log-probabilities and soft labels of some images at a time."""
        device = self.sums["p"].device
        for places, logits in self.logits.parts():
            yield places, log_softmax(logits.to(device)), self.soft.rows(places).to(device).double()

    def _divergences(self, centroids: Sequence[Tensor]) -> list[float]:
        """Of soft labels: mean_x KL(P_x || Q_t), for each of several (C, C) centroids."""
        totals = [0.0] * len(centroids)
        for _, log_p, t in self._read():
            p, label = log_p.exp(), t.to_sparse()
            for k, q in enumerate(centroids):
                totals[k] += float((p * (log_p - _mixture(label, q).clamp(min=TINY).log())).sum())
        return [total / self.images for total in totals]

    def _bootstrap(self, replicates: int, seed: int, cmi_weight: float) -> dict[str, np.ndarray]:
        """As `metrics.bootstrap`, with the same random numbers."""
        rng, device = generator(seed, 0xB007), self.sums["p"].device
        hard = self.soft is None
        together = max(1, BLOCK // max(self.images, 0 if hard else self.classes**2))
        found = []
        for begin in range(0, replicates, together):
            shape = min(together, replicates - begin), self.images
            w = torch.from_numpy(rng.standard_exponential(shape)).to(device)
            w /= w.sum(1, keepdim=True)
            found.append(torch.stack(self._hard(w) if hard else self._soft(w)).cpu().numpy())
        value, divergence = np.concatenate(found, axis=1)
        return {"score": divergence - cmi_weight * value, "cmi": value, "divergence": divergence}

    def _hard(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) weights -> CMI and D of each replicate, (B,): class by class, so that of a
        replicate's centroids only one need be there at a time.
        """
        labels = np.frombuffer(self.labels, np.int64)
        edges = np.bincount(labels, minlength=self.classes).cumsum()[:-1]
        value, divergence = w.new_zeros(len(w)), w.new_zeros(len(w))
        for y, places in enumerate(np.split(labels.argsort(kind="stable"), edges)):
            log_p = log_softmax(self.logits.rows(places).to(w.device))
            p, own = log_p.exp(), w[:, torch.from_numpy(places).to(w.device)]
            counts = own.sum(1)
            q = own @ p / counts.unsqueeze(1)
            log_q = q.clamp(min=TINY).log()
            value += own @ (p * log_p).sum(1) - counts * (q * log_q).sum(1)
            divergence -= log_q[:, y] / self.classes
        return value, divergence

    def _soft(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) weights -> CMI and D of each replicate, (B,), from two passes over the images."""
        sums = w.new_zeros(len(w), self.classes, self.classes)
        counts = w.new_zeros(len(w), self.classes)
        for places, log_p, t in self._read():
            counts += w[:, places] @ t
            (image, label), share = t.to_sparse().indices(), t.to_sparse().values()
            p = log_p.exp()[image]
            for k, own in enumerate(w[:, places][:, image] * share):
                sums[k].index_add_(0, label, own.unsqueeze(1) * p)
        q = sums / counts.unsqueeze(2)
        value = w.new_zeros(len(w))
        for places, log_p, t in self._read():
            p, sparse = log_p.exp(), t.to_sparse()
            value += w[:, places] @ (p * log_p).sum(1)
            for k, centroids in enumerate(q):
                cross = (p * _mixture(sparse, centroids).clamp(min=TINY).log()).sum(1)
                value[k] -= w[k, places] @ cross
        return value, -q.diagonal(dim1=1, dim2=2).clamp(min=TINY).log().mean(1)


def _mixture(labels: Tensor, centroids: Tensor) -> Tensor:
    """(N, C) sparse soft labels, few of a row not 0, and (C, C) centroids -> (N, C) Q_t."""
    (image, label), share = labels.indices(), labels.values()
    mixed = centroids.new_zeros(labels.shape)
    return mixed.index_add_(0, image, share.unsqueeze(1) * centroids[label])
