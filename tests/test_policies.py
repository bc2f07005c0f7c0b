"""Each policy draws what torchvision's draws: the same operations and magnitudes, as often."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2
from torchvision.transforms.autoaugment import AutoAugmentPolicy

from paperlib.augment import (
    AUGMENTATIONS,
    OPS,
    POLICIES,
    Policy,
    apply_chains,
    apply_op,
    augment,
    augment_batches,
    cutmix,
    generator,
    policies,
    to_device,
)
from paperlib.augment.pipeline import crop_and_mirror, crop_draw, cutmix_draw

CLASSES = {
    "randaugment": v2.RandAugment,
    "trivialaugment": v2.TrivialAugmentWide,
    "autoaugment_cifar10": lambda: v2.AutoAugment(AutoAugmentPolicy.CIFAR10),
    "autoaugment_imagenet": lambda: v2.AutoAugment(AutoAugmentPolicy.IMAGENET),
    "autoaugment_svhn": lambda: v2.AutoAugment(AutoAugmentPolicy.SVHN),
    "augmix": v2.AugMix,
}
WITHOUT_MAGNITUDE = ("Identity", "AutoContrast", "Equalize", "Invert")


def torchvision_draws(name, count):
    """What torchvision's class asks of its operations: a Counter of (operation, magnitude),
    Identity left out.
    """
    transform, seen = CLASSES[name](), Counter()

    def spy(image, op, magnitude, **_):
        if op in ("TranslateX", "TranslateY", "Posterize"):
            magnitude = int(magnitude)  # the cut that the operation makes
        if op == "Solarize":
            magnitude *= 255
        if op != "Identity":
            seen[op, 0.0 if op in WITHOUT_MAGNITUDE else round(magnitude, 4) + 0.0] += 1
        return image

    transform._apply_image_or_video_transform = spy
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    torch.manual_seed(3)
    for _ in range(count):
        transform(image)
    return seen


def our_draws(name, count):
    *_, ops, magnitudes = POLICIES[name].draw(generator(5, 6, 7), count, 32, 32)
    seen = Counter()
    for op, magnitude in zip(ops.ravel(), magnitudes.ravel(), strict=True):
        if OPS[op] in ("TranslateX", "TranslateY", "Posterize"):
            magnitude = int(magnitude)
        if OPS[op] != "Identity":
            seen[
                OPS[op], 0.0 if OPS[op] in WITHOUT_MAGNITUDE else round(float(magnitude), 4) + 0.0
            ] += 1
    return seen


@pytest.mark.parametrize("name", CLASSES)
def test_draws_are_distributed_as_torchvisions(name):
    few, many = 6_000, 60_000
    theirs, ours = torchvision_draws(name, few), our_draws(name, many)
    assert set(theirs) <= set(ours), f"never drawn here: {set(theirs) - set(ours)}"
    rare = {what: n for what, n in ours.items() if what not in theirs}
    assert all(n / many < 12 / few for n in rare.values()), f"drawn here alone: {rare}"
    # Each count is close to binomial; five standard deviations of the difference, over at most 400
    # comparisons.
    for what, n in ours.items():
        p = n / many
        spread = np.sqrt(p * max(1 - p, 0.1) * (1 / few + 1 / many)) + 1 / few
        assert abs(theirs[what] / few - p) < 5 * spread, (what, theirs[what] / few, p)


def test_augmix_mixes_as_torchvision():
    """With torchvision's own weights and links, our mixture is its mixture."""
    image = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    )
    shares, ops, magnitudes = draw = policies.augmix(generator(1), 1, 32, 32)
    transform, calls = v2.AugMix(), []
    # Every random number torchvision would draw, taken from our draw instead.
    weights = torch.from_numpy(shares).float()
    dirichlets = iter(
        [torch.stack([weights[:, 0], 1 - weights[:, 0]], 1), weights[:, 1:] / (1 - weights[:, :1])]
    )
    transform._sample_dirichlet = lambda _: next(dirichlets)
    apply = transform._apply_image_or_video_transform
    drawn = ops[0] != OPS.index("Identity")  # (chains, links)
    links = iter(zip(ops[0][drawn], magnitudes[0][drawn], strict=True))
    depths = iter(drawn.sum(1).tolist())

    def substitute(batch, _op, _magnitude, **options):
        index, magnitude = next(links)
        op, magnitude = OPS[index], float(magnitude)
        calls.append(op)
        return apply(batch, op, magnitude / 255 if op == "Solarize" else magnitude, **options)

    transform._apply_image_or_video_transform = substitute
    original = torch.randint

    def randint(*args, **kwargs):
        return (
            torch.tensor([next(depths)]) if kwargs.get("high") == 4 else original(*args, **kwargs)
        )

    torch.randint = randint
    try:
        theirs = transform(image)
    finally:
        torch.randint = original
    ours = policies.apply_augmix(image.unsqueeze(0), *draw)[0]
    assert len(calls) >= 3
    assert (
        ours.int() - theirs.int()
    ).abs().max() <= 1  # the weights are rounded once more on the way to torchvision
    assert (ours == theirs).float().mean() > 0.99


def test_erasing_boxes_as_torchvision():
    transform = v2.RandomErasing(p=1.0)
    torch.manual_seed(0)
    image = torch.zeros(3, 32, 32)
    theirs = np.array(
        [
            [p["i"], p["j"], p["i"] + p["h"], p["j"] + p["w"]]
            for p in (transform.make_params([image]) for _ in range(8000))
            if p["v"] is not None
        ]
    )
    (boxes,) = policies.erasing(generator(0), 40_000, 32, 32)
    erased = boxes[(boxes[:, 2] > boxes[:, 0])]
    assert abs(len(erased) / len(boxes) - 0.5) < 0.02
    for column in (
        theirs[:, 2] - theirs[:, 0],
        theirs[:, 3] - theirs[:, 1],
        theirs[:, 0],
        theirs[:, 1],
    ):
        assert column.std() > 1
    of = lambda b: np.column_stack([b[:, 2] - b[:, 0], b[:, 3] - b[:, 1], b[:, 0], b[:, 1]])  # noqa: E731
    for ours, reference in zip(of(erased).T, of(theirs).T, strict=True):
        quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]
        assert np.abs(np.quantile(ours, quantiles) - np.quantile(reference, quantiles)).max() <= 1
        assert abs(ours.mean() - reference.mean()) < 5 * reference.std() * np.sqrt(
            1 / len(reference) + 1 / len(ours)
        )


def test_erasing_is_black_before_normalisation():
    images = torch.full((64, 3, 32, 32), 200, dtype=torch.uint8)
    (boxes,) = policies.erasing(generator(2), 64, 32, 32)
    for image, (top, left, bottom, right) in zip(policies.erase(images, boxes), boxes, strict=True):
        assert (image[:, top:bottom, left:right] == 0).all()
        assert (image == 0).sum() == 3 * (bottom - top) * (right - left)


def test_crop_and_mirror_are_torchvisions():
    rng, images = generator(4), torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)
    seen = Counter()
    views = crop_and_mirror(images, *crop_draw(rng, 300, 32, 32, padding=4, mirror=True), padding=4)
    for image, view in zip(images, views, strict=True):
        padded = v2.functional.pad(image, [4, 4, 4, 4])
        found = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if torch.equal(
                view,
                (lambda c: c.flip(-1) if flip else c)(padded[:, top : top + 32, left : left + 32]),
            )
        ]
        assert len(found) == 1
        seen[found[0]] += 1
    assert {k[0] for k in seen} == {k[1] for k in seen} == set(range(9))
    assert 110 < sum(n for k, n in seen.items() if k[2]) < 190


def test_cutmix_equals_torchvisions_for_its_box():
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3, 1, 0])
    transform = v2.CutMix(num_classes=4)
    for seed in range(20):
        boxes, partners = cutmix_draw(generator(seed), 6, 32, 32)
        assert (boxes == boxes[0]).all()
        box = top, left, bottom, right = boxes[0].tolist()
        lam = 1 - (bottom - top) * (right - left) / 1024
        transform.make_params = lambda _, box=box, lam=lam: dict(
            box=(box[1], box[0], box[3], box[2]), lam_adjusted=lam, labels=labels, batch_size=6
        )
        params = transform.make_params([])
        mixed, soft = cutmix(images, labels, 4, boxes, partners)
        assert torch.equal(mixed, transform.transform(images, params))
        assert torch.allclose(soft, transform._mixup_label(labels, lam=lam))
        assert torch.allclose(soft.sum(1), torch.ones(6))


def test_cutmix_box_sizes_follow_a_uniform_lambda():
    boxes = np.concatenate([cutmix_draw(generator(7, k), 1, 32, 32)[0] for k in range(4000)])
    transform = v2.CutMix(num_classes=2)
    torch.manual_seed(1)
    theirs = np.array(
        [transform.make_params([torch.zeros(2, 3, 32, 32)])["lam_adjusted"] for _ in range(4000)]
    )
    ours = 1 - (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1024
    assert (
        np.abs(
            np.quantile(ours, [0.1, 0.3, 0.5, 0.7, 0.9])
            - np.quantile(theirs, [0.1, 0.3, 0.5, 0.7, 0.9])
        ).max()
        < 0.03
    )


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_keyed_by_seed_epoch_and_batch(name):
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(40) % 10
    before = images.clone()
    first, again, other = (
        augment(images, labels, name, generator(*key), 10)[0]
        for key in ((0, 1, 2), (0, 1, 2), (0, 2, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", AUGMENTATIONS[1:8])
def test_every_image_of_a_batch_draws_for_itself(name):
    """Copies of one picture get different views, without crop and mirror to tell them apart."""
    picture = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(60, -1, -1, -1)
    views, _ = augment(
        picture, torch.zeros(60, dtype=torch.long), name, generator(0), 2, mirror=False, padding=0
    )
    assert len({view.numpy().tobytes() for view in views}) > 12


def test_chains_reach_the_image_they_were_drawn_for():
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8)
    ops, magnitudes = policies.randaugment(generator(9), 50, 32, 32)
    together = apply_chains(images, ops, magnitudes)
    for n in range(50):
        alone = images[n : n + 1]
        for op, magnitude in zip(ops[n], magnitudes[n], strict=True):
            alone = apply_op(alone, OPS[op], torch.tensor([magnitude]))
        assert torch.equal(together[n], alone[0])


def pictures(seed, count, height, width):
    """Coarse patches with noise on them, and labels 0 .. 9."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (count, 3, 5, 5))[:, :, np.arange(height) * 5 // height]
    x = patches[:, :, :, np.arange(width) * 5 // width] * 3 // 4 + rng.integers(
        0, 64, (count, 3, height, width)
    )
    return torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(rng.integers(0, 10, count))


# The committed records depend on these bytes and on the order of the random numbers: a run's key
# names its augmentation and its seed, not the code. Whoever changes one of these hashes must make
# all records anew.
PINNED = {
    "none": "79c2d6f837288818",
    "erasing": "ca87aa0891582390",
    "randaugment": "f1596036f6bb5c78",
    "trivialaugment": "587f1c6fa39c3749",
    "augmix": "841571d2348c3535",
    "autoaugment_cifar10": "85b0a232a9852180",
    "autoaugment_imagenet": "44acaa0c52b36b09",
    "autoaugment_svhn": "fbee4a8d995160bf",
    "none+cutmix": "b003bcabf909c9e1",
    "erasing+cutmix": "9ca9a1b5586dc9e1",
    "randaugment+cutmix": "66ed470395f3855e",
    "trivialaugment+cutmix": "461ba492bb9bdab9",
    "augmix+cutmix": "af9d915691a826a3",
    "autoaugment_cifar10+cutmix": "2db81ad0e74925bb",
    "autoaugment_imagenet+cutmix": "bb047f6cf1d50181",
    "autoaugment_svhn+cutmix": "787c32b32b6d837b",
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_views_are_those_of_the_committed_records(name):
    digest = hashlib.sha256()
    cases = [
        (150, 32, 32, True, 4),
        (37, 24, 31, False, 2),
        (1, 32, 32, True, 4),
        (60, 64, 64, True, 8),
    ]
    for key, (count, height, width, mirror, padding) in enumerate(cases):
        images, labels = pictures(key, count, height, width)
        for tensor in augment(images, labels, name, generator(3, key, 7), 10, mirror, padding):
            digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest()[:16] == PINNED[name]


@pytest.mark.parametrize(
    "count, batch", [(90, 30), (70, 30), (61, 30), (20, 30)]
)  # whole, smaller, single last one; only one
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_many_batches_are_the_batches_one_by_one(name, count, batch):
    images, labels = pictures(1, count, 32, 32)
    before = images.clone()
    keys = range(-(-count // batch))
    views, targets = augment_batches(
        images, labels, name, [generator(5, k) for k in keys], batch, 10
    )
    one_by_one = [
        augment(x, y, name, generator(5, k), 10)
        for k, x, y in zip(keys, images.split(batch), labels.split(batch), strict=True)
    ]
    assert torch.equal(views, torch.cat([x for x, _ in one_by_one]))
    assert torch.equal(targets, torch.cat([y for _, y in one_by_one]))
    assert torch.equal(images, before)


@pytest.mark.parametrize("generators, batch", [(2, 30), (4, 30), (3, 0)])
def test_one_generator_per_batch(generators, batch):
    images, labels = pictures(1, 90, 32, 32)
    with pytest.raises(ValueError, match=f"batches of {batch} .* got {generators}"):
        augment_batches(
            images, labels, "none", [generator(k) for k in range(generators)], batch, 10
        )


def test_an_augmentation_of_ones_own(monkeypatch):
    """One entry, and it works alone, with CutMix, and over many batches."""

    def negative(images, chosen):
        return torch.where(to_device(chosen, images.device).view(-1, 1, 1, 1), ~images, images)

    monkeypatch.setitem(
        POLICIES, "negative", Policy(lambda rng, n, height, width: (rng.random(n) < 0.5,), negative)
    )
    images, labels = pictures(1, 50, 16, 16)
    views, _ = augment_batches(
        images, labels, "negative", [generator(0), generator(1)], 30, 10, mirror=False, padding=0
    )
    inverted = [torch.equal(view, ~image) for view, image in zip(views, images, strict=True)]
    assert 10 < sum(inverted) < 40
    assert all(
        turned or torch.equal(*pair) for turned, *pair in zip(inverted, views, images, strict=True)
    )
    assert augment(images, labels, "negative+cutmix", generator(0), 10)[1].shape == (50, 10)
    monkeypatch.setitem(
        POLICIES, "wrong", Policy(lambda rng, n, height, width: (rng.random((1, n)),), negative)
    )
    with pytest.raises(ValueError, match=r"axis 0.*\(1, 50\)"):
        augment(images, labels, "wrong", generator(0), 10)


class Copies(TorchDispatchMode):
    """Counts the copies from the host to CUDA; raises at one that waits, or at one that comes
    back.
    """

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and args[0].device != result.device:
            assert result.device.type == "cuda", "a copy back to the host waits for the device"
            assert kwargs.get("non_blocking"), "a copy from pageable memory waits for the device"
            self.count += 1
        return result


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_nothing_waits_for_cuda(name, monkeypatch):
    """On fake CUDA tensors, which have no values: whatever needed one (item, nonzero, a boolean
    mask) would raise.
    """
    images, labels = pictures(1, 70, 32, 32)
    rngs = lambda: [generator(5, k) for k in range(3)]  # noqa: E731
    expected = augment_batches(
        images, labels, name, rngs(), 30, 10
    )  # fills the caches of host tables, too
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # fake tensors cannot
    with FakeTensorMode(), Copies() as copies:
        images, labels = (
            torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in (images, labels)
        )
        actual = augment_batches(images, labels, name, rngs(), 30, 10)
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.shape, ours.dtype, ours.device.type) == (theirs.shape, theirs.dtype, "cuda")
    assert copies.count <= 7  # per call, not per batch or operation


def test_names():
    assert len(AUGMENTATIONS) == 16 == len(set(AUGMENTATIONS))
    with pytest.raises(ValueError, match="mixup"):
        augment(
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.long),
            "mixup",
            generator(0),
            2,
        )
    with pytest.raises(ValueError, match="7"):
        augment(
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            torch.tensor([0, 7]),
            "none",
            generator(0),
            2,
        )
