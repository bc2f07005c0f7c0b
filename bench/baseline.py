"""What is to be beaten: scoring and training in the manner of the paper's released code, written
plainly.

One PIL image after the other through torchvision's transforms in DataLoader workers, an eager
float32 step in the default memory layout, quantizers of several autograd functions each, the loss
read back every step; scoring passes over the images separately for T. stddev (ten times two views),
the centroids, and the evaluation. Nothing here is used by `paperlib`, and nothing is made slower
than its manner asks: the networks, losses and hyperparameters are the same.
"""

import copy

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from paperlib.augment import parse
from paperlib.data import Dataset as Images
from paperlib.quantizers import layers_to_quantize

STDDEV_PASSES = 10
POLICIES = {
    "none": v2.Identity,
    "erasing": v2.RandomErasing,
    "randaugment": v2.RandAugment,
    "trivialaugment": v2.TrivialAugmentWide,
    "augmix": v2.AugMix,
    "autoaugment_cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "autoaugment_imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
    "autoaugment_svhn": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
}


class PerImage(Dataset):
    """PIL images, one transformed at a time."""

    def __init__(self, data: Images, policy: str):
        self.images = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in data.train_images.cpu()]
        self.labels = data.train_labels.tolist()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(data.train_images.shape[-1], padding=4),
                *([v2.RandomHorizontalFlip()] if data.mirror else []),
                POLICIES[policy](),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def loader(data: Images, policy: str, batch: int, workers: int, shuffle: bool) -> DataLoader:
    return DataLoader(
        PerImage(data, policy),
        batch,
        shuffle,
        num_workers=workers,
        pin_memory=data.train_images.is_cuda,
        persistent_workers=workers
        > 0,  # else starting them would weigh more in short passes than in whole ones
    )


# ----------------------------------------------------------------------------------------- training


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, levels: int, delta: float) -> Tensor:
        q = torch.round(x * (levels - 1)) / (levels - 1)
        ctx.save_for_backward(x - q)
        ctx.delta = delta
        return q

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        (error,) = ctx.saved_tensors
        return g * (1 + ctx.delta * torch.sign(g) * error), None, None


class PlainConv(nn.Conv2d):
    """EWGS with plain tensor operations; bounds and scale from the first batch."""

    def adopt(self, bits: int) -> None:
        self.levels, self.ready = 2**bits, False
        one = self.weight.new_ones(())
        self.bounds = nn.ParameterList([-one, one.clone(), 0 * one, one.clone()])
        self.scale = nn.Parameter(one.clone())

    def quantized(self, x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return _Round.apply(
            torch.clamp((x - lower) / (upper - lower), min=0, max=1), self.levels, 0.0
        )

    def forward(self, x: Tensor) -> Tensor:
        w_low, w_high, x_low, x_high = self.bounds
        if not self.ready:
            with torch.no_grad():
                w_low.copy_(-3 * self.weight.std())
                w_high.copy_(3 * self.weight.std())
                x_low.copy_(x.min())
                x_high.copy_(3 * x.std() / (1 - 2 / torch.pi) ** 0.5)
            self.ready = True
        w = 2 * (self.quantized(self.weight, w_low, w_high) - 0.5)
        return torch.abs(self.scale) * self._conv_forward(
            self.quantized(x, x_low, x_high), w, self.bias
        )


def plain_student(teacher: nn.Module, bits: int) -> nn.Module:
    student = copy.deepcopy(teacher).requires_grad_()
    for name in layers_to_quantize(teacher):
        layer = student.get_submodule(name)
        layer.__class__ = PlainConv
        layer.adopt(bits)
    return student


def train_epoch(
    teacher: nn.Module, student: nn.Module, batches: DataLoader, classes: int, mix: bool
) -> float:
    """One epoch of CE + 2 KL(T = 4), Adam for weights and for quantizers; the mean loss."""
    device = next(teacher.parameters()).device
    ours = {
        id(p) for m in student.modules() if isinstance(m, PlainConv) for p in (*m.bounds, m.scale)
    }
    weights = torch.optim.Adam(
        [p for p in student.parameters() if id(p) not in ours], 1e-3, weight_decay=1e-4
    )
    quantizers = torch.optim.Adam([p for p in student.parameters() if id(p) in ours], 1e-5)
    cutmix = v2.CutMix(num_classes=classes)
    teacher.eval()
    student.train()
    total = 0.0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        if mix:
            images, labels = cutmix(images, labels)
        with torch.no_grad():
            wanted = teacher(images)
        logits = student(images)
        kl = (
            F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(wanted / 4, 1), reduction="batchmean")
            * 16
        )
        loss = F.cross_entropy(logits, labels) + 2 * kl
        weights.zero_grad()
        quantizers.zero_grad()
        loss.backward()
        weights.step()
        quantizers.step()
        total += loss.item()
    return total / len(batches)


# ------------------------------------------------------------------------------------------ scoring


@torch.no_grad()
def predictions(teacher: nn.Module, batches: DataLoader, classes: int, mix: bool):
    """One pass: yields the teacher's probabilities and the soft targets, batch by batch."""
    device, cutmix = next(teacher.parameters()).device, v2.CutMix(num_classes=classes)
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        images, targets = (
            cutmix(images, labels) if mix else (images, F.one_hot(labels, classes).float())
        )
        yield F.softmax(teacher(images), 1), targets


def score(
    teacher: nn.Module, data: Images, augmentation: str, workers: int, group: int = 5
) -> dict[str, float]:
    """One augmentation by 22 passes over the images: ten of two views for T. stddev, one for
    centroids, one to evaluate.
    """
    policy, mix = parse(augmentation)
    classes = len(data.classes)
    views, base = (loader(data, name, 100, workers, shuffle=False) for name in (policy, "none"))
    teacher.eval()
    means = []
    for _ in range(STDDEV_PASSES):
        steps = []
        pairs = zip(
            predictions(teacher, views, classes, mix),
            predictions(teacher, base, classes, mix),
            strict=True,
        )
        for (first, _), (second, _) in pairs:
            steps.append(torch.cat([first, second]))
            if len(steps) == group:
                means.append(torch.cat(steps).mean(0))
                steps = []
    sums, counts = torch.zeros(classes, classes), torch.zeros(classes)
    for p, t in predictions(teacher, views, classes, mix):
        sums += (t.T @ p).cpu()
        counts += t.sum(0).cpu()
    centroids = (sums / counts[:, None]).to(next(teacher.parameters()).device)
    total, images = 0.0, 0
    for p, t in predictions(teacher, views, classes, mix):
        total += (
            (p * (p.clamp(min=1e-30).log() - (t @ centroids).clamp(min=1e-30).log())).sum().item()
        )
        images += len(p)
    divergence = -centroids.diagonal().clamp(min=1e-30).log().mean().item()
    return {
        "score": divergence - total / images,
        "cmi": total / images,
        "divergence": divergence,
        "teacher_stddev": torch.stack(means).std(0).mean().item()
        if len(means) > 1
        else float("nan"),
    }
