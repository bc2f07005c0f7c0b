"""The losses on features, as functions of the student's and the teacher's. Every one returns a
scalar.

fs and ft are features of the same N images: maps (N, C, H, W) or vectors (N, D), floating point.
`hint`, `correlation` and `kdsvd` need equal widths (channels), `fsp` two equal pairs of widths; the
others compare what does not depend on the width. Where maps differ in size the larger is averaged
down to the smaller (adaptive average pooling), as RepDistiller (HobbitLong/RepDistiller b84f547)
does; functions that flatten need none of it. Batch sizes must agree. All raise ValueError for
shapes they cannot compare.

Lengths are guarded where they are 0, as after a ReLU they can be: the gradient there is finite.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# of 1 / (difference of eigenvalues), relative to the largest: bounds the gradient of singular
# vectors
BROADENING = 1e-4


def _check(fs: Tensor, ft: Tensor, ndim: int | None = None) -> None:
    wanted = "maps (N, C, H, W)" if ndim == 4 else "features"
    if (
        fs.ndim != ft.ndim
        or fs.ndim < 2
        or (ndim and fs.ndim != ndim)
        or fs.shape[0] != ft.shape[0]
    ):
        raise ValueError(
            f"{wanted} of one batch expected, got {tuple(fs.shape)} and {tuple(ft.shape)}"
        )


def same_size(fs: Tensor, ft: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width, by adaptive average pooling; maps of one size come
    back as they are.

    >>> [tuple(f.shape) for f in same_size(torch.ones(1, 2, 8, 8), torch.ones(1, 3, 4, 4))]
    [(1, 2, 4, 4), (1, 3, 4, 4)]
    """
    _check(fs, ft, 4)
    size = tuple(min(pair) for pair in zip(fs.shape[2:], ft.shape[2:], strict=True))
    fs, ft = (f if f.shape[2:] == size else F.adaptive_avg_pool2d(f, size) for f in (fs, ft))
    return fs, ft


def unit(x: Tensor, dim: int = 1) -> Tensor:
    """x scaled to length 1 along `dim`; a vector of zeros stays one, with a gradient of the size of
    what arrives.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / length.masked_fill(length == 0, 1)


def attention(fs: Tensor, ft: Tensor) -> Tensor:
    """Attention transfer (Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928, eq. 2 with squared
    activations).

    The map of a feature is the mean over channels of its squares, flattened and scaled to length 1;
    the loss is the mean over batch and positions of the squared difference. Channel counts may
    differ.

    >>> attention(torch.ones(1, 2, 4, 4), 3 * torch.ones(1, 5, 4, 4))
    tensor(0.)
    """
    maps = [F.normalize(f.square().mean(1).flatten(1)) for f in same_size(fs, ft)]
    return (maps[0] - maps[1]).square().mean()


def nst(fs: Tensor, ft: Tensor) -> Tensor:
    """Neuron selectivity transfer (Huang & Wang, 2017, arXiv 1707.01219, section 4), polynomial
    kernel of degree 2, c = 0.

    The squared maximum mean discrepancy between the channels of student and teacher, each scaled to
    length 1 over space: mean k(t, t') + mean k(s, s') - 2 mean k(s, t), k(a, b) = (a . b)^2, means
    over batch and pairs of channels. Neither the order of the channels matters nor their number,
    nor the length of any.

    >>> maps = torch.arange(16.0).reshape(1, 2, 2, 4)
    >>> nst(maps, maps.flip(1)).abs() < 1e-6
    tensor(True)
    """
    s, t = (unit(f.flatten(2), 2) for f in same_size(fs, ft))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT).square().mean()

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def similarity(fs: Tensor, ft: Tensor) -> Tensor:
    """Similarity-preserving distillation (Tung & Mori, ICCV 2019, arXiv 1907.09682, eq. 4), of one
    layer.

    G = the N x N matrix of dot products of the flattened features, rows scaled to length 1; |G_s -
    G_t|^2 / N^2.

    >>> similarity(torch.eye(2), torch.eye(2).flip(1))
    tensor(0.)
    """
    _check(fs, ft)
    s, t = (unit(f.flatten(1) @ f.flatten(1).T) for f in (fs, ft))
    return (s - t).square().mean()


def rkd(
    fs: Tensor, ft: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """Relational knowledge distillation (Park et al., CVPR 2019, arXiv 1904.05068, section 3.2).

    distance_weight * mean over the N^2 pairs of the Huber loss (bend at 1) between distances, each
    divided by the mean of the positive ones, + angle_weight * the same over the N^3 cosines of the
    angles at i between j and k. Blind to shifts, rotations and a common factor. Pairs of an image
    with itself count with distance and cosine 0, as in the authors' code. Takes memory for 2 N^3
    numbers.

    >>> rkd(torch.eye(3), 5 * torch.eye(3) + 1) < 1e-8
    tensor(True)
    """
    _check(fs, ft)
    (student_distances, student_units), (teacher_distances, teacher_units) = (
        _relations(fs),
        _relations(ft),
    )
    distance = F.smooth_l1_loss(student_distances, teacher_distances)
    angle = F.smooth_l1_loss(student_units @ student_units.mT, teacher_units @ teacher_units.mT)
    return distance_weight * distance + angle_weight * angle


def _relations(f: Tensor) -> tuple[Tensor, Tensor]:
    """(N, ...) -> distances over their positive mean (N, N); directions [i, j] from i to j, of
    length 1 or 0 (N, N, D).
    """
    f = f.flatten(1)
    steps = f[None] - f[:, None]
    distances = torch.linalg.vector_norm(steps, dim=2)
    positive = distances > 0
    mean = distances.sum() / positive.sum().clamp(min=1)
    return distances / mean.masked_fill(mean == 0, 1), steps / distances.masked_fill(~positive, 1)[
        ..., None
    ]


def hint(fs: Tensor, ft: Tensor) -> Tensor:
    """The hint of FitNets (Romero et al., ICLR 2015, arXiv 1412.6550, eq. 3): the mean squared
    difference.

    The student's feature comes through a regressor first: `FitNet`. Mean over all elements, as
    RepDistiller takes it.

    >>> hint(torch.zeros(2, 3), torch.full((2, 3), 2.0))
    tensor(4.)
    """
    _check(fs, ft)
    if fs.shape[1] != ft.shape[1]:
        raise ValueError(
            f"features of one width expected, got {tuple(fs.shape)} and {tuple(ft.shape)}"
        )
    return F.mse_loss(*(same_size(fs, ft) if fs.ndim == 4 else (fs, ft)))


def correlation(fs: Tensor, ft: Tensor) -> Tensor:
    """Correlation congruence (Peng et al., ICCV 2019, arXiv 1904.01802) in the form that
    RepDistiller and SQAKD run.

    The mean over neighbours i, i + 1 in the batch of sum_d |d_i| |d_{i+1}|, d = fs - ft: the order
    of the batch matters. The paper compares matrices of kernel correlations instead; its released
    form is the one that the benchmarks use.

    fs, ft  of one shape, at least 2 images.

    >>> correlation(torch.tensor([[1.0, 0.0], [2.0, 3.0]]), torch.zeros(2, 2))
    tensor(2.)
    """
    if fs.shape != ft.shape or fs.ndim < 2 or len(fs) < 2:
        raise ValueError(
            f"features of one shape and at least 2 images expected, got {tuple(fs.shape)} "
            f"and {tuple(ft.shape)}"
        )
    difference = (fs - ft).abs().flatten(1)
    return (difference[:-1] * difference[1:]).sum(1).mean()


def pkt(fs: Tensor, ft: Tensor) -> Tensor:
    """Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018, arXiv 1803.10837, section 3).

    Row i of P: cosine similarities of image i with all images, moved to [0, 1], divided by their
    sum. The loss is the mean over the N^2 entries of P_t log((P_t + 1e-7) / (P_s + 1e-7)), in nats.
    Blind to rotations and to each image's length.

    >>> pkt(torch.eye(3), 2 * torch.eye(3))
    tensor(0.)
    """
    _check(fs, ft)
    s, t = (_affinities(f.flatten(1)) for f in (fs, ft))
    return (t * ((t + 1e-7) / (s + 1e-7)).log()).mean()


def _affinities(f: Tensor) -> Tensor:
    f = unit(f)
    cosine = (f @ f.T + 1) / 2
    return cosine / cosine.sum(1, keepdim=True)


def fsp(fs_pair: Sequence[Tensor], ft_pair: Sequence[Tensor]) -> Tensor:
    """The flow of solution procedure (Yim et al., CVPR 2017, eqs. 1 and 2), of one pair of layers.

    G[n, i, j] = mean over positions of f_i f'_j, f and f' the maps of two layers; the larger is
    pooled to the size of the smaller. The loss is the mean squared difference of student's and
    teacher's G.

    fs_pair, ft_pair  two maps each; the student's widths are the teacher's.

    >>> fsp([torch.ones(1, 2, 4, 4)] * 2, [torch.ones(1, 2, 8, 8), 3 * torch.ones(1, 2, 4, 4)])
    tensor(4.)
    """
    s, t = _flow(*fs_pair), _flow(*ft_pair)
    if s.shape != t.shape:
        raise ValueError(
            f"pairs of the same widths expected, their flows are {tuple(s.shape)} and "
            f"{tuple(t.shape)}"
        )
    return F.mse_loss(s, t)


def _flow(first: Tensor, second: Tensor) -> Tensor:
    first, second = same_size(first, second)
    return first.flatten(2) @ second.flatten(2).mT / first[0, 0].numel()


def factor(factor_s: Tensor, factor_t: Tensor, p1: int = 2, p2: int = 1) -> Tensor:
    """Factor transfer (Kim et al., NeurIPS 2018, arXiv 1802.04977, section 3) in the form that
    RepDistiller and SQAKD run.

    A factor is reduced to the mean over channels of its p1-th power, flattened, and scaled to
    length 1; the loss is the mean over batch and positions of |difference|^p2. The paper scales the
    whole factor instead and takes no mean over channels.

    factor_s, factor_t  maps of any widths: the translator's and the paraphraser's, see
                        `FactorTransfer`.

    >>> factor(torch.ones(1, 2, 4, 4), 3 * torch.ones(1, 2, 4, 4))
    tensor(0.)
    """
    s, t = (F.normalize(f.pow(p1).mean(1).flatten(1)) for f in same_size(factor_s, factor_t))
    return (s - t).abs().pow(p2).mean()


def kdsvd(fs: Sequence[Tensor], ft: Sequence[Tensor], k: int = 1) -> Tensor:
    """Distillation of singular vectors (Lee et al., ECCV 2018, arXiv 1807.06819, section 3), in
    RepDistiller's form.

    Of every map, taken as a matrix (positions, channels), the k leading right singular vectors. The
    student's are taken from its k + 3 leading ones: for each of the teacher's the closest, by the
    absolute cosine, and turned towards it. Vectors are weighed by the teacher's singular values
    over their length (1 if k = 1). For consecutive layers a, b the relation is exp(-(v_a[i] -
    v_b[j])^2 / 8) for all pairs of channels; the loss is the sum of squared differences of
    student's and teacher's relations over layers, pairs and vectors, divided by the number of
    images.

    A singular vector has no sign, but the value depends on the teacher's. Here its largest
    component is positive, so that it does not depend on the LAPACK build; released code takes what
    comes. The gradient of a singular vector grows with 1 / (s_i^2 - s_j^2): those are damped below
    a difference of 1e-4 of the largest, so it stays finite. On a GPU the decomposition itself waits
    for the device: a step with this loss cannot be captured in a graph.

    fs, ft  at least two maps each, from the first layer to the last, student's and teacher's of
            equal widths; k at least 1 and at most the smaller of channels and positions. The
            teacher's receive no gradient.

    >>> maps = [torch.arange(16.0).reshape(1, 2, 2, 4), torch.eye(4).reshape(1, 4, 2, 2)]
    >>> kdsvd(maps, maps)
    tensor(0.)
    """
    if len(fs) != len(ft) or len(fs) < 2:
        raise ValueError(
            f"at least two layers of both networks expected, got {len(fs)} and {len(ft)}"
        )
    vectors = [_aligned_vectors(s, t, k) for s, t in zip(fs, ft, strict=True)]

    def relation(a: Tensor, b: Tensor) -> Tensor:
        return (-(b[:, :, None] - a[:, None]).square() / 8).exp()  # (N, C_b, C_a, k)

    consecutive = zip(vectors[:-1], vectors[1:], strict=True)
    losses = [
        (relation(sa, sb) - relation(ta, tb)).square().sum() for (sa, ta), (sb, tb) in consecutive
    ]
    return sum(losses) / len(fs[0])


def _aligned_vectors(fs: Tensor, ft: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k vectors of student and teacher, weighed, (N, C, k) each."""
    _check(fs, ft, 4)
    if fs.shape[1] != ft.shape[1]:
        raise ValueError(f"maps of one width expected, got {tuple(fs.shape)} and {tuple(ft.shape)}")
    most = min(ft.shape[1], ft[0, 0].numel())
    if not 1 <= k <= most:
        raise ValueError(f"k must lie in 1..{most} for maps of shape {tuple(ft.shape)}, got {k}")
    values, teacher = right_singular_vectors(ft.detach(), k)
    largest = teacher.abs().argmax(1, keepdim=True)
    teacher = teacher * teacher.gather(1, largest).sign()
    _, candidates = right_singular_vectors(fs, k + 3)
    cosine = candidates.detach().mT @ teacher  # (N, k + 3, k)
    closest = cosine.abs().argmax(1, keepdim=True)
    student = (
        candidates.gather(2, closest.expand(-1, fs.shape[1], -1)) * cosine.gather(1, closest).sign()
    )
    weights = unit(values)[:, None]
    return student * weights, teacher * weights


def right_singular_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The leading singular values (N, count) and right singular vectors (N, C, count) of maps as
    matrices (positions, C).

    The vectors carry a gradient by first-order perturbation of the eigenvectors of x^T x, with 1 /
    difference replaced by difference / (difference^2 + BROADENING^2), relative to the largest
    eigenvalue; the values carry none. Fewer come back where there are fewer channels or positions
    than count.
    """
    x = maps.flatten(2).mT  # (N, positions, C)
    with torch.no_grad():
        _, values, vh = torch.linalg.svd(x.detach(), full_matrices=False)
        largest = values[:, :1].square().clamp(min=torch.finfo(x.dtype).tiny)
        eigenvalues = values.square() / largest
        leading = vh[:, :count].mT
        own = eigenvalues[:, None, :count]
        gaps = own - eigenvalues[:, :, None]  # (N, rank, count), 0 where a vector meets itself
        within, outside = (d / (d.square() + BROADENING**2) for d in (gaps, own))
    moved = x.mT @ (x @ leading) / largest[..., None]
    moved = moved - moved.detach()  # 0 in value: only its gradient counts
    along = vh @ moved
    vectors = leading + vh.mT @ (within * along) + outside * (moved - vh.mT @ along)
    return values[:, :count], vectors
