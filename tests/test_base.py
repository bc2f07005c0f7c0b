"""The base augmentation of Tiny-ImageNet draws and gives what torchvision's transforms and Pillow
do.
"""

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from paperlib.augment import (
    AUGMENTATIONS,
    OPS,
    apply_chains,
    at_once,
    augment,
    augment_batches,
    base,
    generator,
)
from paperlib.data import Dataset, resized
from paperlib.losses import objective


def pictures(seed, count, height, width):
    """Coarse patches with noise on them, and labels 0 .. 9."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (count, 3, 5, 5))[:, :, np.arange(height) * 5 // height]
    x = patches[:, :, :, np.arange(width) * 5 // width] * 3 // 4 + rng.integers(
        0, 64, (count, 3, height, width)
    )
    return torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(rng.integers(0, 10, count))


def noise(seed, count, height, width):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (count, 3, height, width)).astype(np.uint8)
    )


@pytest.mark.parametrize(
    "height, width, size",
    [(64, 64, 224), (64, 64, 64), (64, 64, 20), (64, 48, 33), (90, 200, 24), (5, 7, 9)],
)
def test_resized_crops_are_torchvisions(height, width, size):
    images, rng = noise(1, 24, height, width), generator(0)
    boxes, flips = base.crop_boxes(rng, 24, height, width), np.arange(24) % 3 == 0
    boxes[:2] = (
        [0, 0, height, width],
        [height - 1, width - 2, 1, 2],
    )  # all of it, and next to nothing
    before = images.clone()
    views = base.resized_crop(images, boxes, flips, size)
    assert views.shape == (24, 3, size, size) and torch.equal(images, before)
    for image, box, flip, view in zip(images, boxes.tolist(), flips, views, strict=True):
        theirs = TF.resized_crop(image, *box, [size, size], antialias=True)
        pillow = TF.pil_to_tensor(TF.resized_crop(TF.to_pil_image(image), *box, [size, size]))
        if flip:
            theirs, pillow = theirs.flip(-1), pillow.flip(-1)
        # torchvision's weights have 15 bits, so its own bytes are rarely two off Pillow's.
        error = (view.int() - theirs.int()).abs()
        assert (
            error.max() <= 2
            and (error > 1).float().mean() < 1e-3
            and (error > 0).float().mean() < 0.1
        )
        assert (view.int() - pillow.int()).abs().max() <= 1
        if size in (64, 224):  # what Tiny-ImageNet is used at: byte for byte
            assert torch.equal(view, pillow)


def test_a_crop_of_its_own_size_is_the_crop():
    images = noise(2, 6, 40, 50)
    boxes = np.array([[3, 5, 32, 32]] * 6)
    views = base.resized_crop(images, boxes, np.zeros(6, bool), 32)
    assert torch.equal(views, images[:, :, 3:35, 5:37])


@pytest.mark.parametrize(
    "side, start, length, size",
    [(64, 3, 50, 20), (64, 0, 64, 224), (30, 29, 1, 7), (64, 10, 13, 13)],
)
def test_weights_are_the_triangle_filters(side, start, length, size):
    """Against the definition: a triangle around each output pixel's centre, over the piece alone,
    normalised.
    """
    (weights,) = base.triangle_weights(torch.tensor([start]), torch.tensor([length]), side, size)
    expected, scale = np.zeros((size, side)), length / size
    for i in range(size):
        for k in range(length):
            expected[i, start + k] = max(
                0.0, 1 - abs(k + 0.5 - (i + 0.5) * scale) / max(scale, 1.0)
            )
        expected[i] /= expected[i].sum()
    assert np.abs(weights.numpy() - expected).max() <= 0.51 / base.FIXED_POINT
    assert torch.equal(weights * base.FIXED_POINT, (weights * base.FIXED_POINT).round())


@pytest.mark.parametrize("size", [3, 20, 64, 224])
def test_one_colour_stays_that_colour(size):
    images = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    views = base.resized_crop(
        images, base.crop_boxes(generator(1), 256, 64, 64), np.zeros(256, bool), size
    )
    assert torch.equal(views, images[:, :, :1, :1].expand_as(views))


@pytest.mark.parametrize(
    "height, width", [(64, 64), (64, 40), (100, 20), (20, 100)]
)  # the last ones often fall back
def test_crops_are_distributed_as_torchvisions(height, width):
    few, many = 3000, 40_000
    transform, image = v2.RandomResizedCrop(8), torch.zeros(3, height, width)
    torch.manual_seed(0)
    drawn = [transform.make_params([image]) for _ in range(few)]
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in drawn])
    ours = base.crop_boxes(generator(2), many, height, width)
    top, left, h, w = ours.T
    assert (
        (top >= 0).all()
        and (left >= 0).all()
        and (top + h <= height).all()
        and (left + w <= width).all()
    )

    def of(b):
        return (*b.T, b[:, 2] * b[:, 3], b[:, 3] / b[:, 2])

    for a, b in zip(of(ours), of(theirs), strict=True):
        assert abs(a.mean() - b.mean()) < 5 * b.std() * np.sqrt(1 / few + 1 / many) + 1e-9
        grid = np.quantile(b, [0.05, 0.25, 0.5, 0.75, 0.95])
        assert np.abs(
            (a[:, None] <= grid).mean(0) - (b[:, None] <= grid).mean(0)
        ).max() < 5 * np.sqrt(0.25 / few)


@pytest.mark.parametrize(
    "height, width, expected", [(400, 2, [198, 0, 3, 2]), (2, 400, [0, 198, 2, 3])]
)
def test_without_a_fitting_try_the_crop_is_central(height, width, expected):
    transform, image = v2.RandomResizedCrop(8), torch.zeros(3, height, width)
    counts = Counter(map(tuple, base.crop_boxes(generator(3), 2000, height, width).tolist()))
    assert counts.most_common(1)[0][0] == tuple(expected)
    theirs = Counter(
        tuple(transform.make_params([image])[k] for k in ("top", "left", "height", "width"))
        for _ in range(200)
    )
    assert theirs.most_common(1)[0][0] == tuple(expected)


def test_jitter_is_distributed_as_torchvisions():
    _, flips, ops, magnitudes = base.draw(generator(4), 24_000, 64, 64, mirror=True)
    assert abs(flips.mean() - 0.5) < 0.02
    assert not base.draw(generator(4), 100, 64, 64, mirror=False)[1].any()
    orders = Counter(map(tuple, ops.tolist()))
    assert len(orders) == 24 and min(orders.values()) > 850 and max(orders.values()) < 1150
    transform = v2.ColorJitter(0.2, 0.2, 0.2, 0.1)
    drawn = [transform.make_params([]) for _ in range(2000)]
    names = {
        "Brightness": "brightness",
        "Contrast": "contrast",
        "Color": "saturation",
        "Hue": "hue",
    }
    for op, theirs in names.items():
        ours = magnitudes[ops == OPS.index(op)]
        reference = np.array([p[f"{theirs}_factor"] for p in drawn]) - (op != "Hue")
        assert (
            np.abs(
                np.quantile(ours, [0, 0.25, 0.75, 1]) - np.quantile(reference, [0, 0.25, 0.75, 1])
            ).max()
            < 0.02
        )
        assert np.abs(ours).max() <= base.JITTER[op]


def test_jitter_gives_what_torchvisions_gives():
    """With our draws in the place of torchvision's."""
    images = pictures(5, 60, 32, 32)[0]
    _, _, ops, magnitudes = base.draw(generator(5), 60, 32, 32, mirror=True)
    views, transform = apply_chains(images, ops, magnitudes), v2.ColorJitter(0.2, 0.2, 0.2, 0.1)
    number = {"Brightness": 0, "Contrast": 1, "Color": 2, "Hue": 3}
    differ = 0
    for image, view, chain, values in zip(images, views, ops, magnitudes, strict=True):
        order = [number[OPS[op]] for op in chain]
        b, c, s, h = (float(value) for _, value in sorted(zip(order, values, strict=True)))
        factors = dict(
            brightness_factor=1 + b, contrast_factor=1 + c, saturation_factor=1 + s, hue_factor=h
        )
        theirs = transform.transform(image, dict(fn_idx=torch.tensor(order), **factors))
        assert (
            view.int() - theirs.int()
        ).abs().max() <= 2  # one level of Hue, times 1.2 and rounded by what follows
        differ += int((view != theirs).sum())
    assert differ < 1e-3 * views.numel()


@pytest.mark.parametrize("name", ["none", "erasing", "augmix", "autoaugment_imagenet+cutmix"])
def test_many_batches_are_the_batches_one_by_one(name):
    images, labels = pictures(6, 25, 40, 30)
    before = images.clone()
    views, targets = augment_batches(
        images, labels, name, [generator(5, k) for k in range(3)], 10, 10, size=48
    )
    one_by_one = [
        augment(x, y, name, generator(5, k), 10, size=48)
        for k, (x, y) in enumerate(zip(images.split(10), labels.split(10), strict=True))
    ]
    assert views.shape == (25, 3, 48, 48) and torch.equal(images, before)
    assert torch.equal(views, torch.cat([x for x, _ in one_by_one]))
    assert torch.equal(targets, torch.cat([y for _, y in one_by_one]))


def test_the_policy_acts_on_the_view_at_its_size():
    """Erased boxes and CutMix boxes reach beyond the side of the images."""
    images, labels = (
        torch.full((200, 3, 16, 16), 255, dtype=torch.uint8),
        torch.zeros(200, dtype=torch.long),
    )
    views, _ = augment(images, labels, "erasing", generator(1), 2, size=64)
    assert (views[:, :, 32:, 32:] == 0).any() and ((views == 0).all(1).sum((1, 2)) > 16 * 16).any()
    mixed, targets = augment(images, labels, "none+cutmix", generator(2), 2, size=64)
    assert mixed.shape == (200, 3, 64, 64) and torch.allclose(targets.sum(1), torch.ones(200))


def test_padding_is_not_used_with_a_size():
    images, labels = pictures(7, 8, 32, 32)
    a, b = (
        augment(images, labels, "none", generator(1), 10, padding=padding, size=40)[0]
        for padding in (0, 4)
    )
    assert torch.equal(a, b)


# As in test_policies.py: records of Tiny-ImageNet depend on these bytes.
PINNED = {
    "none": "4a869bee4c1c73dc",
    "randaugment": "a646cf0a1583b58a",
    "augmix+cutmix": "a19d66d00efd653b",
}


@pytest.mark.parametrize("name", PINNED)
def test_views_are_pinned(name):
    digest = hashlib.sha256()
    for size, count in ((64, 30), (224, 4)):
        for tensor in augment(
            *pictures(size, count, 64, 64), name, generator(3, size), 10, size=size
        ):
            digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest()[:16] == PINNED[name]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_nothing_waits_for_cuda(name, monkeypatch):
    """On fake CUDA tensors, which have no values: whatever needed one would raise."""
    images, labels = pictures(1, 12, 32, 32)

    def call():
        return augment_batches(
            images, labels, name, [generator(5, k) for k in range(3)], 5, 10, size=48
        )

    expected = call()
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # fake tensors cannot
    with FakeTensorMode():
        images, labels = (
            torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in (images, labels)
        )
        actual = call()
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.shape, ours.dtype, ours.device.type) == (theirs.shape, theirs.dtype, "cuda")


def test_training_scoring_and_testing_use_the_size():
    """The sides of the batches that a network sees."""
    from paperlib import scoring, training
    from paperlib.basics.recipe import Recipe
    from paperlib.scoring.racing import rank_within

    seen = []

    class Net(torch.nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape[2:]))
            return x.mean((2, 3))[:, :2] + 0.1 * x[:, :2, 0, 0]

    images, labels = noise(8, 60, 16, 16), torch.arange(60) % 2
    data = resized(Dataset("own", images, labels, images, labels, ("a", "b")), 28)
    scoring.predict(Net(), data, "none+cutmix")
    rank_within(Net(), data, ["none"], budget=1.0)
    assert set(seen) == {(28, 28)}
    seen.clear()
    training.accuracy(Net(), data)
    assert set(seen) == {(32, 32)}
    batches = training.batches(
        training.Task(data, "none", objective("ce"), Recipe(1, 25, 0.1, 0.0), seed=0), 0
    )
    assert [tuple(x.shape) for x, *_ in batches] == [
        (25, 3, 28, 28),
        (25, 3, 28, 28),
        (10, 3, 28, 28),
    ]


def test_chunks_hold_as_many_pixels_whatever_the_size():
    assert (
        at_once(torch.device("cpu"), 32, 32) == 512
        and at_once(torch.device("cuda"), 32, 32) == 32_768
    )
    assert (
        at_once(torch.device("cpu"), 64, 64) == 128
        and at_once(torch.device("cpu"), 4000, 4000) == 1
    )


@pytest.mark.parametrize("size", [0, -3])
def test_sizes_are_positive(size):
    images, labels = pictures(7, 2, 8, 8)
    with pytest.raises(ValueError, match=str(size)):
        augment(images, labels, "none", generator(1), 10, size=size)
