"""Virtual attention blocks for any network, and a hierarchical mixture of experts.

Xue, Song, Wang, Chen, Wang & Song, *KDExplainer*, IJCAI 2021 (arXiv 2105.04181); released code
xmq1221/KDExplainer 587db8b. The experts follow that code. The attention blocks are not in it, and
the paper could not be read in full, so their form is ours: attention is a softmax of a linear map
of the blocks' means, it starts uniform, and uniform attention is the identity. So is the number of
blocks, the temperature, and that they stay in full precision in a low-bit student.

Of the experts these are ours: narrower ones without dropout, whose map is averaged over all
positions before the head; one learning rate for all; and that the annealing ends where the code's
300 epochs do, however long the schedule. The second stage, which trains the tree anew with each
node's strongest parent alone, is left out; the accuracy of that tree is measured as it is.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlib.basics.checks import checked, positive, require, several, word
from paperlib.data import Dataset
from paperlib.data.checks import floats, module
from paperlib.losses import objective
from paperlib.models import in_mode
from paperlib.models.classifier import full_precision
from paperlib.models.outputs import logits_in
from paperlib.models.precision import widen
from paperlib.quantizers.ends import unwrapped
from paperlib.runs.kinds import Result, load_data, load_network, start_student, trained_alone
from paperlib.study.store import Store
from paperlib.training import Task, accuracy
from paperlib.training.learners import Single
from paperlib.training.looks import Hooked, look_of

from .study import MANY, AttendedRun, ExpertsRun

LOOKED_AT = 500  # training images whose attention is logged
FIRST, LAST = 10.0, 1 / 30  # temperature of the routes in the first epoch and in the last
HARD = 1e-6  # at which a node has one parent

# ------------------------------------------------------------------------ virtual attention blocks


@checked(x=floats("N C ..."), attention=floats("N B"))
def weighted(x: Tensor, attention: Tensor) -> Tensor:
    """n a_b x_b: each of n blocks of consecutive channels times n times its attention.

    x  (N, C, ...) float. attention  (N, n) float. Raises ValueError unless n divides C.

    >>> weighted(torch.ones(1, 4), torch.tensor([[0.75, 0.25]]))
    tensor([[1.5000, 1.5000, 0.5000, 0.5000]])
    """
    blocks = attention.shape[1]
    scale = (blocks * attention).repeat_interleave(_in_each(blocks, x), 1)
    return x * scale.to(x.dtype).reshape(*scale.shape, *[1] * (x.ndim - 2))


def _in_each(blocks: int, x: Tensor) -> int:
    channels = x.shape[1]
    require(channels % blocks == 0, f"{channels} channels cannot be cut into {blocks} blocks")
    return channels // blocks


@checked(attention=floats("N B"))
def entropy(attention: Tensor) -> Tensor:
    """-sum_b a_b log a_b in nats, mean over rows (N, n): a scalar.

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor(0.3466)
    """
    tiny = torch.finfo(attention.dtype).tiny  # the logarithm of 0 has no gradient
    return -(attention * attention.clamp_min(tiny).log()).sum(1).mean()


class BlockAttention(nn.Module):
    """Weighs the blocks of a map (N, C, ...) by a softmax over a linear map of their means. Fresh
    ones are the identity.
    """

    full_precision = ("gate",)

    @checked(blocks=MANY, temperature=positive)
    def __init__(self, blocks: int, temperature: float):
        super().__init__()
        self.blocks, self.temperature = blocks, temperature
        self.gate, self.softmax = nn.Linear(blocks, blocks), nn.Softmax(1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    @checked(x=floats("N C ..."))
    def forward(self, x: Tensor) -> Tensor:
        size = self.blocks, _in_each(self.blocks, x)
        with full_precision(x):
            means = widen(x).unflatten(1, size).flatten(2).mean(2)
            return weighted(x, self.softmax(self.gate(means) / self.temperature))


@checked(network=module, after=several(word), blocks=MANY, temperature=positive)
def with_attention(
    network: nn.Module, after: Sequence[str], blocks: int = 8, temperature: float = 0.1
) -> nn.Module:
    """A copy of any network, which gives the same output and has attention blocks to learn.

    network  may be a low-bit student: quantize first, so that first and last layer are those of
             the network. after  paths of modules, as `named_modules` has them, whose output
             (N, C, ...) is weighed; blocks must divide its C.

    Raises ValueError for a path that is no module of the network, or there twice.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 2))
    >>> carrier, images = with_attention(network, ["0"], blocks=4), torch.rand(2, 3, 4, 4)
    >>> torch.equal(carrier(images), network(images))
    True
    """
    require(len({*after}) == len(after), f"one block after each module, got {after}")
    carrier = copy.deepcopy(unwrapped(network))
    names = dict(carrier.named_modules())
    for path in after:
        some = ", ".join(list(names)[1:9])
        require(path in names, f"the network has no module {path!r}; it has {some}, ...")
        parent, _, own = path.rpartition(".")
        place = next(names[path].parameters(), torch.empty(0)).device
        attended = nn.Sequential(names[path], BlockAttention(blocks, temperature).to(place))
        setattr(names[parent], own, attended)
    return carrier


def attentions(network: nn.Module) -> list[str]:
    """Paths of the modules whose outputs are the attention (N, n) of a network's blocks."""
    blocks = (name for name, m in network.named_modules() if isinstance(m, BlockAttention))
    return [f"{name}.softmax" for name in blocks]


class Sparse(Single):
    """One student: its objective, plus gamma times the entropy of its attention, mean over images
    and layers. Raises ValueError for a network without attention blocks.
    """

    def __init__(self, model: nn.Module, task: Task, compiled: bool = False, *, gamma: float):
        super().__init__(model, task)  # as it is written: hooks read the attention
        self.gamma, self.paths = gamma, attentions(model)
        require(self.paths, "the network has no attention to make sparse: see with_attention")
        self.look = Hooked(self.looks.student, model, self.paths)

    def losses(self, x: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        student, wanted = self.looks.outputs(self.look, x)
        total = self.loss(student, wanted, targets, indices)
        layers = [entropy(student[1][path]) for path in self.paths]
        return (total + self.gamma * sum(layers) / len(layers)).reshape(1)


@torch.no_grad()
def attention_facts(network: nn.Module, images: Tensor) -> dict[str, float]:
    """Of the attention in a network, over log n, mean over layers: `entropy` of an image's, and
    `between`, how much higher that of the mean attention is: 0 if all images have the same.
    """
    paths = attentions(network)
    with in_mode(network, training=False):
        found = look_of(network, paths, images)(images)[1]
    every = [found[path] for path in paths]
    own, mean = relative_entropy(every), relative_entropy([each.mean(0, True) for each in every])
    return {"entropy": own, "between": mean - own}


def make_attended(run: AttendedRun, store: Store, device: str) -> Result:
    """Train a student with attention blocks, looking at them after each epoch."""
    student, task = start_student(run, load_network(run.teacher, store, device), device)
    student = with_attention(student, run.after, run.blocks, run.temperature)
    few = task.data.network_input(task.data.train_images[:LOOKED_AT])
    how = {"learner": partial(Sparse, gamma=run.gamma)}
    how["inspect"] = lambda epochs: attention_facts(student, few)
    return trained_alone(run, student, task, store, **how)


# ------------------------------------------------------------------ hierarchical mixture of experts


@checked(weights=floats("J I"), temperature=positive)
def routes(weights: Tensor, temperature: float) -> Tensor:
    """What each of J nodes takes of its I parents, (J, I): softmax(2 w / t) over parents.

    The released code has softmax(log softmax(w / 0.5) / t), which is the same.

    >>> routes(torch.tensor([[0.0, 1.0]]), 2.0)
    tensor([[0.2689, 0.7311]])
    """
    return (2 * weights / temperature).softmax(1)


def annealed(epoch: int, epochs: int) -> float:
    """The temperature of the routes in an epoch (from 0). In the code it is 10 / (epoch + 1) over
    300 epochs; here it falls in that way from 10 to 1/30 over any number.

    >>> annealed(0, 30), annealed(299, 300) == 1 / 30, annealed(1, 300)
    (10.0, True, 5.0)
    """
    return FIRST / (1 + (FIRST / LAST - 1) * epoch / max(1, epochs - 1))


class Experts(nn.Module):
    """Levels of experts, and a head for each class. A node reads the sum of its parents' maps,
    weighed by its `routes`; the heads are the last nodes.

    experts  of each level; those of the first read the image. width  channels of each. shrink  the
    side of what they average of the image first. Images (N, 3, H, W) -> logits (N, classes). Raises
    ValueError for a level of one expert, which leaves its children no choice.
    """

    def __init__(
        self, classes: int, experts: Sequence[int], width: int = 8, shrink: int = 1, seed: int = 0
    ):
        several(MANY)("experts", experts)
        super().__init__()
        self.shrink, before = shrink, (3, *[width] * (len(experts) - 1))
        self.experts, children = tuple(experts), (*experts[1:], classes)
        self.register_buffer("temperature", torch.tensor(FIRST))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            levels = zip(experts, before, strict=True)
            self.levels = nn.ModuleList(_level(number, read, width) for number, read in levels)
            self.routes = nn.ParameterList(
                torch.rand(nodes, parents) for nodes, parents in zip(children, experts, strict=True)
            )
            self.heads = nn.Sequential(
                nn.Conv1d(classes * width, classes * 4 * width, 1, groups=classes),
                nn.ReLU(),
                nn.Conv1d(classes * 4 * width, classes, 1, groups=classes),
            )

    def shares(self) -> list[Tensor]:
        """The routes from each level to the next, and to the classes, as they are now."""
        return [routes(weights, float(self.temperature)) for weights in self.routes]

    def forward(self, images: Tensor) -> Tensor:
        x = F.avg_pool2d(images, self.shrink)
        x = x.unsqueeze(1).expand(-1, self.experts[0], -1, -1, -1)
        for number, level, shares in zip(self.experts, self.levels, self.shares(), strict=True):
            maps = level(x.flatten(1, 2)).unflatten(1, (number, -1))
            x = torch.einsum("ji,nichw->njchw", shares, maps)
        with full_precision(images):
            return self.heads(widen(x).mean((3, 4)).flatten(1).unsqueeze(2)).squeeze(2)


def _level(experts: int, before: int, width: int) -> nn.Sequential:
    """Experts side by side: two convolutions each, and a pooling."""
    of_all = experts * width
    return nn.Sequential(
        nn.Conv2d(experts * before, of_all, 3, padding=1, groups=experts, bias=False),
        nn.BatchNorm2d(of_all),
        nn.ReLU(),
        nn.Conv2d(of_all, of_all, 3, padding=1, groups=experts, bias=False),
        nn.BatchNorm2d(of_all),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class Annealed(Single):
    """One mixture of experts, whose routes harden from epoch to epoch."""

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        self.models[0].temperature.fill_(annealed(epoch, self.tasks[0].recipe.epochs))
        return super().batches(epoch)


def relative_entropy(shares: Sequence[Tensor]) -> float:
    """`entropy` of each, over the logarithm of its columns, two at least, mean: 1 if all count
    alike.

    >>> round(relative_entropy([torch.tensor([[0.5, 0.5]]), torch.eye(4)]), 4)
    0.5
    """
    return sum(entropy(each).item() / math.log(each.shape[1]) for each in shares) / len(shares)


@torch.no_grad()
def similarity(teacher: nn.Module, data: Dataset, temperature: float = 4.0) -> Tensor:
    """(C, C): what a teacher gives, at this temperature, to class b on images of class a, mean of
    that and of the reverse.
    """
    with in_mode(teacher, training=False):
        found = [
            logits_in(teacher(data.network_input(x))) for x in data.train_images.split(LOOKED_AT)
        ]
    given, classes = (torch.cat(found) / temperature).softmax(1), len(data.classes)
    each = torch.stack([given[data.train_labels == c].mean(0) for c in range(classes)])
    return (each + each.T) / 2


def make_experts(run: ExpertsRun, store: Store, device: str) -> Result:
    """Train a mixture of experts. Its routes before, at the last temperature, and after; and how
    similar the teacher finds the classes.
    """
    data, teacher = load_data(run.data, device), load_network(run.teacher, store, device)
    network = Experts(len(data.classes), run.experts, run.width, run.shrink, run.seed)
    goal = objective(run.loss, **run.loss_options)
    task = Task(data, "none", goal, run.recipe, run.seed, teacher)

    def look(epochs: int) -> Result:
        with torch.no_grad():
            return {"entropy": relative_entropy(network.shares())}

    def now() -> tuple[list, float]:
        shares = network.shares()
        return [each.tolist() for each in shares], relative_entropy(shares)

    network.temperature.fill_(LAST)
    facts = dict(zip(("start", "start_entropy"), now(), strict=True))
    result = trained_alone(run, network, task, store, learner=Annealed, inspect=look)
    facts |= {"routes": now()[0], "similarity": similarity(teacher, data).tolist()}
    network.temperature.fill_(HARD)
    facts["tree_accuracy"] = accuracy(network, data, precision=run.recipe.precision)
    return result | facts
