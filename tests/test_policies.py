"""Each policy draws what torchvision's draws: the same operations and magnitudes, as often."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.autoaugment import AutoAugmentPolicy

from paperlib.augment import AUGMENTATIONS, OPS, apply_op, augment, cutmix, generator, policies
from paperlib.augment.pipeline import crop_and_mirror, cutmix_box

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
    """What torchvision's class asks of its operations: a Counter of (operation, magnitude), Identity left out."""
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
    rng = generator(5, 6, 7)
    if name == "augmix":
        links = [link for chain in policies.augmix_draw(rng, count, 32, 32).chains for link in chain]
    elif name.startswith("autoaugment"):
        links = policies.autoaugment(rng, count, 32, 32, table=name.removeprefix("autoaugment_"))
    else:
        links = getattr(policies, name)(rng, count, 32, 32)
    seen = Counter()
    for link in links:
        for op, magnitude in zip(link.ops, link.magnitudes, strict=True):
            if OPS[op] in ("TranslateX", "TranslateY", "Posterize"):
                magnitude = int(magnitude)
            if OPS[op] != "Identity":
                seen[OPS[op], 0.0 if OPS[op] in WITHOUT_MAGNITUDE else round(float(magnitude), 4) + 0.0] += 1
    return seen


@pytest.mark.parametrize("name", CLASSES)
def test_draws_are_distributed_as_torchvisions(name):
    few, many = 6_000, 60_000
    theirs, ours = torchvision_draws(name, few), our_draws(name, many)
    assert set(theirs) <= set(ours), f"never drawn here: {set(theirs) - set(ours)}"
    rare = {what: n for what, n in ours.items() if what not in theirs}
    assert all(n / many < 12 / few for n in rare.values()), f"drawn here alone: {rare}"
    # Each count is close to binomial; five standard deviations of the difference, over at most 400 comparisons.
    for what, n in ours.items():
        p = n / many
        spread = np.sqrt(p * max(1 - p, 0.1) * (1 / few + 1 / many)) + 1 / few
        assert abs(theirs[what] / few - p) < 5 * spread, (what, theirs[what] / few, p)


def test_augmix_mixes_as_torchvision():
    """With torchvision's own weights and links, our mixture is its mixture."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8))
    draw = policies.augmix_draw(generator(1), 1, 32, 32)
    transform, calls = v2.AugMix(), []
    # Every random number torchvision would draw, taken from our draw instead.
    weights = torch.from_numpy(draw.weights).float()
    dirichlets = iter([torch.stack([weights[:, 0], 1 - weights[:, 0]], 1), weights[:, 1:] / (1 - weights[:, :1])])
    transform._sample_dirichlet = lambda _: next(dirichlets)
    apply = transform._apply_image_or_video_transform
    links = iter([link for chain in draw.chains for link in chain if OPS[link.ops[0]] != "Identity"])
    depths = iter([sum(OPS[link.ops[0]] != "Identity" for link in chain) for chain in draw.chains])

    def substitute(batch, _op, _magnitude, **options):
        link = next(links)
        op, magnitude = OPS[link.ops[0]], float(link.magnitudes[0])
        calls.append(op)
        return apply(batch, op, magnitude / 255 if op == "Solarize" else magnitude, **options)

    transform._apply_image_or_video_transform = substitute
    original = torch.randint

    def randint(*args, **kwargs):
        return torch.tensor([next(depths)]) if kwargs.get("high") == 4 else original(*args, **kwargs)

    torch.randint = randint
    try:
        theirs = transform(image)
    finally:
        torch.randint = original
    ours = policies.apply_augmix(image.unsqueeze(0), draw)[0]
    assert len(calls) >= 3
    assert (ours.int() - theirs.int()).abs().max() <= 1  # the weights are rounded once more on the way to torchvision
    assert (ours == theirs).float().mean() > 0.99


def test_erasing_boxes_as_torchvision():
    transform = v2.RandomErasing(p=1.0)
    torch.manual_seed(0)
    image = torch.zeros(3, 32, 32)
    theirs = np.array([[p["i"], p["j"], p["i"] + p["h"], p["j"] + p["w"]]
                       for p in (transform.make_params([image]) for _ in range(8000)) if p["v"] is not None])  # fmt: skip
    boxes = policies.erasing_boxes(generator(0), 40_000, 32, 32)
    erased = boxes[(boxes[:, 2] > boxes[:, 0])]
    assert abs(len(erased) / len(boxes) - 0.5) < 0.02
    for column in (theirs[:, 2] - theirs[:, 0], theirs[:, 3] - theirs[:, 1], theirs[:, 0], theirs[:, 1]):
        assert column.std() > 1
    of = lambda b: np.column_stack([b[:, 2] - b[:, 0], b[:, 3] - b[:, 1], b[:, 0], b[:, 1]])  # noqa: E731
    for ours, reference in zip(of(erased).T, of(theirs).T, strict=True):
        quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]
        assert np.abs(np.quantile(ours, quantiles) - np.quantile(reference, quantiles)).max() <= 1
        assert abs(ours.mean() - reference.mean()) < 5 * reference.std() * np.sqrt(1 / len(reference) + 1 / len(ours))


def test_erasing_is_black_before_normalisation():
    images = torch.full((64, 3, 32, 32), 200, dtype=torch.uint8)
    boxes = policies.erasing_boxes(generator(2), 64, 32, 32)
    for image, (top, left, bottom, right) in zip(policies.erase(images, boxes), boxes, strict=True):
        assert (image[:, top:bottom, left:right] == 0).all()
        assert (image == 0).sum() == 3 * (bottom - top) * (right - left)


def test_crop_and_mirror_are_torchvisions():
    rng, images = generator(4), torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)
    seen = Counter()
    for image, view in zip(images, crop_and_mirror(images, rng, padding=4, mirror=True), strict=True):
        padded = v2.functional.pad(image, [4, 4, 4, 4])
        found = [
            (top, left, flip)
            for top in range(9) for left in range(9) for flip in (False, True)
            if torch.equal(view, (lambda c: c.flip(-1) if flip else c)(padded[:, top : top + 32, left : left + 32]))
        ]  # fmt: skip
        assert len(found) == 1
        seen[found[0]] += 1
    assert {k[0] for k in seen} == {k[1] for k in seen} == set(range(9))
    assert 110 < sum(n for k, n in seen.items() if k[2]) < 190


def test_cutmix_equals_torchvisions_for_its_box():
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3, 1, 0])
    transform = v2.CutMix(num_classes=4)
    for seed in range(20):
        box = cutmix_box(generator(seed), 32, 32)
        top, left, bottom, right = box
        lam = 1 - (bottom - top) * (right - left) / 1024
        transform.make_params = lambda _, box=box, lam=lam: dict(
            box=(box[1], box[0], box[3], box[2]), lam_adjusted=lam, labels=labels, batch_size=6
        )
        params = transform.make_params([])
        mixed, soft = cutmix(images, labels, 4, box)
        assert torch.equal(mixed, transform.transform(images, params))
        assert torch.allclose(soft, transform._mixup_label(labels, lam=lam))
        assert torch.allclose(soft.sum(1), torch.ones(6))


def test_cutmix_box_sizes_follow_a_uniform_lambda():
    boxes = np.array([cutmix_box(generator(7, k), 32, 32) for k in range(4000)])
    transform = v2.CutMix(num_classes=2)
    torch.manual_seed(1)
    theirs = np.array([transform.make_params([torch.zeros(2, 3, 32, 32)])["lam_adjusted"] for _ in range(4000)])
    ours = 1 - (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1024
    assert np.abs(np.quantile(ours, [0.1, 0.3, 0.5, 0.7, 0.9]) - np.quantile(theirs, [0.1, 0.3, 0.5, 0.7, 0.9])).max() < 0.03


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_keyed_by_seed_epoch_and_batch(name):
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(40) % 10
    before = images.clone()
    first, again, other = (augment(images, labels, name, generator(*key), 10)[0] for key in ((0, 1, 2), (0, 1, 2), (0, 2, 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", AUGMENTATIONS[1:8])
def test_every_image_of_a_batch_draws_for_itself(name):
    """Copies of one picture get different views, without crop and mirror to tell them apart."""
    picture = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(60, -1, -1, -1)
    views, _ = augment(picture, torch.zeros(60, dtype=torch.long), name, generator(0), 2, mirror=False, padding=0)
    assert len({view.numpy().tobytes() for view in views}) > 12


def test_links_reach_the_image_they_were_drawn_for():
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8)
    (links,) = policies.trivialaugment(generator(9), 50, 32, 32)
    together = policies.apply_links(images, links)
    for n in range(50):
        alone = apply_op(images[n : n + 1], OPS[links.ops[n]], torch.from_numpy(links.magnitudes[n : n + 1]))
        assert torch.equal(together[n], alone[0])


def test_names():
    assert len(AUGMENTATIONS) == 16 == len(set(AUGMENTATIONS))
    with pytest.raises(ValueError, match="mixup"):
        augment(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.long), "mixup", generator(0), 2)
    with pytest.raises(ValueError, match="7"):
        augment(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 7]), "none", generator(0), 2)
