"""Attributes of images, and which images have them: QualEval (Murahari et al., NAACL 2024, arXiv
2311.02807) with measurements in the place of a language model.

There, a model proposes attributes and rates each sample's affinity to each from 1 to 5. Here an
attribute is one end of a measured scale, and the affinity is the image's rank on it. The assignment
is theirs: a linear program, here with sparse constraints.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from paperlib.basics.checks import arrays, checked, count, number, require
from paperlib.data.checks import labels_of, uint8_images
from paperlib.runs.kinds import Result, load_data, load_network
from paperlib.scoring import class_centroids, logits_of
from paperlib.study.store import Store

from .study import AttributesRun

GREY = (0.299, 0.587, 0.114)
# Measure -> what an image at its low end, and one at its high end, is marked with.
ENDS = {
    "brightness": ("dark", "bright"),
    "contrast": ("low contrast", "high contrast"),
    "saturation": ("grey", "vivid"),
    "colourfulness": ("few colours", "many colours"),
    "edges": ("few edges", "many edges"),
    "high_frequency": ("coarse", "fine detail"),
    "clutter": ("tidy", "cluttered"),
    "confidence": ("teacher unsure", "teacher sure"),
    "distance": ("typical of its class", "untypical of its class"),
}


@checked(images=uint8_images)
def measures(images: Tensor) -> dict[str, np.ndarray]:
    """What can be measured of images (N, 3, H, W) uint8: name -> (N,) float64. Our choice.

    brightness, contrast  mean and standard deviation of grey. saturation  mean of that of HSV.
    colourfulness   of Hasler & Suesstrunk (2003).
    edges           mean length of Sobel's gradient. clutter  entropy of how that is spread over the
                    pixels, over its greatest value.
    high_frequency  share of the variance of grey beyond half of the greatest frequency.

    >>> measures(torch.full((1, 3, 8, 8), 51, dtype=torch.uint8))["brightness"].round(6)
    array([0.2])
    """
    x = images.double() / 255
    red, green, blue = x.unbind(1)
    grey = torch.einsum("nchw,c->nhw", x, x.new_tensor(GREY))
    most, least = x.amax(1), x.amin(1)
    a, b = red - green, (red + green) / 2 - blue

    def length(reduce) -> Tensor:
        return torch.hypot(reduce(a), reduce(b))

    sobel = x.new_tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    gradient = F.conv2d(grey[:, None], torch.stack([sobel, sobel.T])[:, None])
    steep = torch.hypot(*gradient.unbind(1)).flatten(1)
    spread = steep / steep.sum(1, keepdim=True).clamp(min=1e-9)
    power = torch.fft.fft2(grey).abs().square().flatten(1)
    power[:, 0] = 0
    fy, fx = (torch.fft.fftfreq(n, device=x.device).abs() for n in grey.shape[1:])
    fine = torch.maximum(fy[:, None], fx).flatten() > 0.25
    found = {
        "brightness": grey.mean((1, 2)),
        "contrast": grey.std((1, 2), correction=0),
        "saturation": ((most - least) / most.clamp(min=1e-9)).mean((1, 2)),
        "colourfulness": length(lambda v: v.std((1, 2), correction=0))
        + 0.3 * length(lambda v: v.mean((1, 2))),
        "edges": steep.mean(1),
        "high_frequency": power[:, fine].sum(1) / power.sum(1).clamp(min=1e-9),
        "clutter": torch.special.entr(spread).sum(1) / np.log(steep.shape[1]),
    }
    return {name: values.cpu().numpy() for name, values in found.items()}


@checked(labels=labels_of())
def teacher_measures(probabilities: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """What a teacher thinks of images: confidence, and the distance of its prediction to the mean
    one of the image's class (half of the absolute differences), name -> (N,) float64.

    probabilities  (N, C) float. labels  (N,) int64. Both are of the images that are described: a
    teacher is unsure of images on which it errs, so that whoever replaces it seems to gain there.
    """
    centroids = class_centroids(probabilities, labels)
    apart = (probabilities - centroids[labels]).abs().sum(1) / 2
    found = {"confidence": probabilities.amax(1), "distance": apart}
    return {name: values.double().cpu().numpy() for name, values in found.items()}


@checked(values=arrays("f", "N"))
def affinity(values: np.ndarray) -> np.ndarray:
    """Rank of each value, from 1 (least) to 5 (greatest); equal ones by their place.

    >>> affinity(np.array([0.3, 9.0, 0.1]))
    array([3., 5., 1.])
    """
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return 1 + 4 * ranks / max(1, len(values) - 1)


@checked(scores=arrays("f", "N A"), slots=count, slack=number("[0, 1]"))
def assign(scores: np.ndarray, slots: int = 2, slack: float = 0.1) -> np.ndarray:
    """The attributes of each sample that give the greatest sum of affinities, if attribute j is
    given to (1 - slack) to (1 + slack) of slots N p_j samples, p_j its share of all affinities.

    The problem is one of transport, so its linear relaxation has whole solutions, as the bounds are
    whole (rounded outwards).

    scores  (N, A) affinities, at least 0. Returns (N, slots) int64, ascending in each row. Raises
    ValueError for more slots than attributes, or bounds that cannot be kept.

    >>> assign(np.array([[5.0, 1, 3], [4, 5, 1], [1, 2, 3]]), slots=1)
    array([[0],
           [1],
           [2]])
    """
    n, a = scores.shape
    require(slots <= a, f"{slots} slots an image need as many attributes, got {a}")
    wanted = slots * n * scores.sum(0) / scores.sum()
    low, high = np.floor((1 - slack) * wanted), np.ceil((1 + slack) * wanted)
    by_sample = sparse.kron(sparse.eye_array(n), np.ones((1, a)), format="csr")
    by_attribute = sparse.kron(np.ones((1, n)), sparse.eye_array(a), format="csr")
    found = linprog(
        -scores.ravel(),
        sparse.vstack([by_attribute, -by_attribute], format="csr"),
        np.concatenate([high, -low]),
        by_sample,
        np.full(n, slots),
        bounds=(0, 1),
        method="highs",
    )
    require(found.status == 0, f"no assignment keeps the bounds {low} .. {high}: {found.message}")
    return np.nonzero(found.x.reshape(n, a) > 0.5)[1].reshape(n, slots)


def make_attributes(run: AttributesRun, store: Store, device: str) -> Result:
    """Names of the attributes, which each test image is given, and the labels, both as text; the
    correlations of the measures' ranks. A measure that is the same for all images is left out.
    """
    network, data = load_network(run.network, store, device), load_data(run.data, device)
    parts = data.test_images.split(500)
    logits = torch.cat([logits_of(network, data, images) for images in parts])
    by_part = [measures(images) for images in parts]
    found = {name: np.concatenate([part[name] for part in by_part]) for name in by_part[0]}
    found |= teacher_measures(logits.double().softmax(1), data.test_labels)
    found = {name: values for name, values in found.items() if np.ptp(values) > 1e-9}
    ranks = np.stack([affinity(values) for values in found.values()], 1)
    given = assign(np.stack([6 - ranks, ranks], 2).reshape(len(ranks), -1), run.slots, run.slack)
    return {
        "measures": list(found),
        "attributes": [end for name in found for end in ENDS[name]],
        "correlations": np.corrcoef(ranks.T).round(4).tolist(),
        "given": " ".join(map(str, given.ravel().tolist())),
        "labels": " ".join(map(str, data.test_labels.tolist())),
    }
