"""`rank` takes what people have, and says the same of it as of tensors in memory."""

import random
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from paperlib.augment import candidates, on_batch
from paperlib.data.streams import as_images, stream
from paperlib.scoring import rank, rank_within
from paperlib.scoring.ranking import scoring_places

N, C = 60, 3
g = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (N, 3, 12, 16), dtype=torch.uint8, generator=g)
LABELS = torch.arange(N) % C
OWN = {"mean": 0.5, "std": 0.25, "stddev_group": 20, "replicates": 10, "batch": 25}
NAMES = ["none", "trivialaugment", "augmix+cutmix"]


class Linear(nn.Module):
    def __init__(self, channels=3, classes=C):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(0.05 * torch.randn(classes, channels * 12 * 16, generator=g))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


class Pairs(torch.utils.data.Dataset):
    """Numpy images (H, W, C) and numpy labels, read one at a time."""

    def __len__(self):
        return N

    def __getitem__(self, k):
        return IMAGES[k].permute(1, 2, 0).numpy(), LABELS[k].numpy()


class Columns(Pairs):
    """As a Hugging Face dataset: rows are dictionaries, features know the names of classes."""

    features = {"img": None, "fine_label": SimpleNamespace(names=["a", "b", "c"])}

    def __getitem__(self, k):
        image, label = super().__getitem__(k)
        return {"id": "x", "img": Image.fromarray(image), "fine_label": int(label)}


def in_order(size):
    """A generator of batches, already in the order of a pass."""
    order = torch.from_numpy(scoring_places(N, 0))
    for part in order.split(size):
        yield IMAGES[part].float() / 255, LABELS[part].tolist()


SOURCES = {
    "numpy": lambda: (IMAGES.permute(0, 2, 3, 1).numpy(), LABELS.numpy()),
    "lists of labels, floats": lambda: (IMAGES.double() / 255, LABELS.tolist()),
    "Dataset": Pairs,
    "TensorDataset": lambda: TensorDataset(IMAGES, LABELS),
    "Hugging Face": Columns,
    "DataLoader": lambda: DataLoader(
        Pairs(),
        batch_size=7,
        collate_fn=lambda rows: (
            np.stack([image for image, _ in rows]),
            [label for _, label in rows],
        ),
    ),
    "generator": lambda: in_order(7),
    "generator of columns": lambda: ({"image": x, "label": y} for x, y in in_order(60)),
    "samples": lambda: ((x[0], y[0]) for x, y in in_order(1)),
}


DEEP = Image.fromarray(np.full((12, 16), 999, np.uint16))


def same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    assert list(a.columns) == list(b.columns) and a["augmentation"].equals(b["augmentation"])
    numbers = a.columns.difference(["augmentation"])
    return np.allclose(a[numbers], b[numbers], rtol=0, atol=1e-9, equal_nan=True)


RACE = {"mean": 0.5, "std": 0.25, "budget": 0.9, "batch": 25}


def raced(data=(IMAGES, LABELS), names=NAMES, teacher=None, **how):
    table = rank_within(teacher or Linear(), data, names, **RACE | how)
    return table.drop(columns="state")


@pytest.fixture(scope="module")
def in_memory():
    return rank(Linear(), (IMAGES, LABELS), NAMES, **OWN), raced()


@pytest.mark.parametrize("kind", SOURCES)
def test_any_source_gives_the_tables_of_tensors_in_memory(kind, in_memory):
    """A race, too, unless the source has an order of its own."""
    assert same(rank(Linear(), SOURCES[kind](), NAMES, **OWN), in_memory[0])
    if iter(source := SOURCES[kind]()) is source:
        with pytest.raises(ValueError, match="generator"):
            raced(source)
    else:
        assert same(raced(source), in_memory[1])


def test_labels_that_a_data_set_lists_are_those_that_it_gives():
    class Listed(Pairs):
        targets = LABELS.roll(1).tolist()

    with pytest.raises(ValueError, match="lists"):
        raced(Listed())


def test_a_race_of_transforms_shares_all_that_is_drawn():
    """Then there is nothing between two candidates that do the same."""
    names = {
        "a": lambda image: image,
        "b+cutmix": lambda image: image,
        "c": v2.MixUp(num_classes=C),
    }
    table = raced(
        names=names | {"none": "none", "none+cutmix": "none+cutmix", "d": v2.RandomErasing()}
    )
    scores = table.set_index("augmentation")["score"]
    assert scores["a"] == scores["none"] and scores["b+cutmix"] == scores["none+cutmix"]
    assert scores.nunique() == 4
    grey = raced((IMAGES[:, :1], LABELS), ["none+mixup"], lambda x: {"a": Linear(1)(x)}, output="a")
    assert len(grey) == 1


def test_progress_is_told_of_every_batch_of_every_candidate():
    steps = []
    names = ["none", "erasing"]
    rank(Linear(), Pairs(), names, **OWN | {"batch": 20}, progress=lambda *step: steps.append(step))
    assert steps[:4] == [
        (0, 180, "none"),
        (20, 180, "erasing"),
        (40, 180, "none"),
        (60, 180, "none"),
    ]
    assert len(steps) == 10 and steps[-1] == (180, 180, "")


class Unshared(torch.utils.data.IterableDataset):
    """Does not share its images among workers."""

    def __iter__(self):
        return iter(
            zip(IMAGES[torch.from_numpy(scoring_places(N, 0))], LABELS.tolist(), strict=True)
        )


def overwriting():
    """Batches in one piece of memory."""
    held, order = torch.empty(7, *IMAGES.shape[1:], dtype=torch.uint8), scoring_places(N, 0)
    for part in torch.from_numpy(order).split(7):
        held[: len(part)] = IMAGES[part]
        yield held[: len(part)], LABELS[part]


def test_what_loaders_and_generators_do(in_memory):
    loader = DataLoader(TensorDataset(IMAGES, LABELS), 8, shuffle=True, drop_last=True)
    state = torch.get_rng_state()
    assert same(rank(Linear(), loader, NAMES, **OWN), in_memory[0])
    assert same(raced(loader), in_memory[1]) and torch.equal(state, torch.get_rng_state())
    assert same(rank(Linear(), overwriting(), NAMES, **OWN), in_memory[0])
    halves = [(IMAGES[:30], LABELS[:30]), (IMAGES[30:], LABELS[30:])]
    assert rank(Linear(), halves, ["none"], **OWN)["images"].tolist() == [N]
    assert rank(Linear(), DataLoader(Unshared(), 8), ["none"], **OWN)["images"].tolist() == [N]
    with pytest.raises(ValueError, match="workers"):
        rank(Linear(), DataLoader(Unshared(), 8, num_workers=2), ["none"], **OWN)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("draw", [lambda: np.random.randint(9), lambda: int(torch.randint(9, ()))])
def test_what_a_data_set_draws_is_the_same_each_time(draw, workers):
    class Random(Pairs):
        def __getitem__(self, k):
            image, label = super().__getitem__(k)
            return np.roll(image, draw(), 0), label

    one, other = (rank(Linear(), Random(), ["none"], **OWN, workers=workers) for _ in range(2))
    assert one.equals(other)


def test_two_thousand_images_of_a_folder(tmp_path):
    """Read from files by a process of its own; seven classes."""
    images = torch.randint(0, 256, (2000, 3, 12, 16), dtype=torch.uint8, generator=g)
    labels = torch.arange(2000) * 7 // 2000
    for k, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = tmp_path / str(label)
        folder.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k:04}.png")
    how = {"mean": 0.5, "std": 0.25, "replicates": 20}
    teacher = Linear(classes=7)
    names = [*NAMES, "none+cutmix"]
    folder = rank(teacher, ImageFolder(tmp_path), names, workers=1, **how)
    assert same(folder, rank(teacher, (images, labels), names, **how))


def test_a_dataset_with_no_places_is_warned_of_when_sorted():
    order = LABELS.argsort(stable=True)
    batches = zip(IMAGES[order].split(10), LABELS[order].split(10), strict=True)
    with pytest.warns(UserWarning, match="sorted"):
        rank(Linear(), batches, ["none"], **OWN)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels(channels):
    """Each channel is changed as if it were one of three; what mixes colours is refused."""
    images = torch.randint(0, 256, (N, channels, 12, 16), dtype=torch.uint8, generator=g)
    table = rank(Linear(channels), (images, LABELS), ["none+cutmix", "erasing"], **OWN)
    assert table["images"].tolist() == [N, N]
    with pytest.raises(ValueError, match="trivialaugment.*Color"):
        rank(Linear(channels), (images, LABELS), ["trivialaugment"], **OWN)
    views, targets = candidates(["erasing+cutmix"])["erasing+cutmix"].views(
        images[:8], LABELS[:8], C, (0, 0)
    )
    triple = images[:8, :1].expand(-1, 3, -1, -1)
    wanted = candidates(["erasing+cutmix"])["erasing+cutmix"].views(triple, LABELS[:8], C, (0, 0))
    assert views[:, 0].equal(wanted[0][:, 0]) and targets.equal(wanted[1])


def test_transforms_of_every_kind():
    wanted = {
        "crop": v2.RandomResizedCrop((12, 16)),
        "jitter+cutmix": v2.ColorJitter(0.5),
        "noise+mixup": lambda image: image + torch.randint(0, 9, image.shape).byte(),
        "batch": on_batch(lambda images: images.flip(2)),
        "albumentations": lambda image: {"image": image.numpy()},
        "mixed": v2.CutMix(num_classes=C),
        "renamed": "trivialaugment",
    }
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    table = rank(Linear(), (IMAGES, LABELS), wanted, **OWN)
    assert set(table["augmentation"]) == set(wanted)
    assert table.equals(rank(Linear(), Pairs(), wanted, **OWN))  # keyed draws
    assert torch.equal(states[0], torch.get_rng_state()) and states[2] == random.getstate()
    assert np.array_equal(states[1], np.random.get_state()[1])


@pytest.mark.parametrize(
    "output, which",
    [
        (lambda z: {"logits": z, "hidden": z.exp()}, None),
        (lambda z: SimpleNamespace(logits=z, loss=None), None),
        (lambda z: (z, z[:, None]), None),
        (lambda z: (z.exp(), z), 1),
        (lambda z: {"a": z, "b": z.exp()}, "a"),
        (lambda z: z.double(), None),
    ],
)
def test_teachers(output, which, in_memory):
    network = Linear()
    found = rank(lambda x: output(network(x)), (IMAGES, LABELS), NAMES, output=which, **OWN)
    assert same(found, in_memory[0])


def test_half_precision_and_ambiguous_teachers():
    half = rank(Linear().to(torch.bfloat16), (IMAGES, LABELS), NAMES, **OWN)
    full = rank(Linear(), (IMAGES, LABELS), NAMES, **OWN)
    both = half.merge(full, on="augmentation")
    assert np.allclose(both["score_x"], both["score_y"], atol=0.05)
    with pytest.raises(ValueError, match="output="):
        rank(lambda x: (x.flatten(1), x.flatten(1)), (IMAGES, LABELS), NAMES, **OWN)


def everywhere(teacher, match, kind):
    """What rank says of images in memory, rank of others, and the race."""
    see = pytest.warns if issubclass(kind, Warning) else pytest.raises
    with see(kind, match=match):
        rank(teacher, (IMAGES, LABELS), ["none"], **OWN)
    with see(kind, match=match):
        rank(teacher, Pairs(), ["none"], **OWN)
    with see(kind, match=match):
        raced(teacher=teacher)


class Says(Linear):
    """Something else of the logits."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x))


PROBABILITIES = {
    "softmax": lambda z: z.softmax(1),
    "half": lambda z: z.softmax(1).half(),
    "bfloat16": lambda z: z.softmax(1).bfloat16(),
    "temperature": lambda z: (z / 4).softmax(1),
    "percent": lambda z: 100 * z.softmax(1),
    "one-hot": lambda z: nn.functional.one_hot(z.argmax(1), C).float(),
}


@pytest.mark.parametrize("kind", PROBABILITIES)
def test_probabilities_are_refused(kind):
    everywhere(Says(PROBABILITIES[kind]), "probabilities", ValueError)


def test_sigmoids_and_unsteady_teachers_are_warned_of(in_memory):
    everywhere(Says(torch.sigmoid), "sigmoid", UserWarning)
    everywhere(Says(lambda z: nn.functional.dropout(z, 0.2)), "call to call", UserWarning)
    frozen = nn.Sequential(nn.BatchNorm2d(3), Linear()).train()
    with pytest.warns(UserWarning, match="call to call"):
        rank(lambda x: frozen(x), (IMAGES, LABELS), ["none"], **OWN)
    log_softmax = rank(Says(lambda z: z.log_softmax(1)), (IMAGES, LABELS), NAMES, **OWN)
    assert np.allclose(log_softmax["score"], in_memory[0]["score"], atol=1e-5)


def test_a_program_of_torch_export_has_no_modes(in_memory):
    some = torch.export.Dim("images", min=2)
    made = torch.export.export(Linear(), (torch.zeros(4, 3, 12, 16),), dynamic_shapes=({0: some},))
    assert same(rank(made.module(), (IMAGES, LABELS), NAMES, **OWN), in_memory[0])


def test_what_is_likely_wrong_with_images_and_transforms_is_warned_of():
    rng = np.random.default_rng(0)
    own = {"own": lambda image: image.roll(int(rng.integers(9)), 2)}
    with pytest.warns(UserWarning, match="own"):
        rank(Linear(), (IMAGES, LABELS), own, **OWN)
    with pytest.warns(UserWarning, match="black"):
        rank(Linear(), ((IMAGES / 255).byte(), LABELS), ["none"], **OWN)


def test_few_images_a_class_are_warned_of():
    with pytest.warns(UserWarning, match="5 images"):
        rank(Linear(), (IMAGES[:15], LABELS[:15]), ["none"], **OWN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank(Linear(), (IMAGES, LABELS), ["none"], **OWN)


def test_a_frozen_batchnorm_stays_frozen():
    teacher = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), Linear()).train()
    teacher[0].eval()
    for data in ((IMAGES, LABELS), Pairs()):
        rank(teacher, data, ["none"], **OWN)
        raced(data, teacher=teacher)
        assert [module.training for module in teacher] == [False, True, True]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"data": (IMAGES.float(), LABELS)}, r"0\.\.1"),
        ({"data": (IMAGES.numpy(), LABELS[:-1].numpy())}, "59"),
        ({"data": (IMAGES.numpy(), LABELS.numpy() + 1)}, "found 3"),
        ({"data": (IMAGES.numpy(), LABELS.numpy() * 0.5)}, "whole numbers"),
        ({"data": (IMAGES.numpy(), LABELS.numpy() // 2 * 2)}, "class 1 has no image"),
        ({"data": [(IMAGES[0], 0), (IMAGES[0, :, :5], 1), (IMAGES[0], 2)]}, "one shape"),
        ({"data": [{"picture": IMAGES[0], "label": 0}]}, "picture"),
        ({"data": iter(())}, "none"),
        ({"data": ["a", "b", "c"]}, "list"),
        ({"data": IMAGES}, "Tensor"),
        ({"augmentations": []}, "at least 1"),
        ({"augmentations": [lambda x: x, lambda x: x]}, "names"),
        ({"augmentations": {"none": lambda x: x}}, "none"),
        ({"augmentations": {"bad": lambda image: image.nope}}, "bad.*on_batch"),
        ({"augmentations": {"bad": lambda image: image[:1]}}, "channels"),
        ({"augmentations": [3]}, "3"),
        ({"augmentations": {"mix": v2.MixUp(num_classes=5)}}, "3, got 5"),
        ({"data": (IMAGES.permute(0, 2, 3, 1), LABELS)}, "permute"),
        ({"data": [(DEEP, 0), (DEEP, 1)]}, "I;16"),
        ({"data": TensorDataset(IMAGES, LABELS, LABELS)}, "tuple"),
        ({"data": (IMAGES, nn.functional.one_hot(LABELS))}, r"\(60, 3\)"),
        ({"data": (IMAGES, ["a", "b", "c"] * 20)}, "'a'"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"mean": 127.0}, "127"),
        ({"std": 0.0}, "std"),
        ({"output": "heads"}, "heads"),
        ({"teacher": "resnet"}, "resnet"),
    ],
)
def test_what_is_wrong_is_named(change, named):
    given = {"teacher": Linear(), "data": (IMAGES, LABELS), "augmentations": ["none"], **OWN}
    with pytest.raises((ValueError, TypeError), match=named):
        rank(**given | change)


def test_images_are_bytes():
    exact = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert as_images(exact.float() / 255).equal(exact) and as_images(exact.half() / 255).equal(
        exact
    )
    found = stream(((x, 0) for x in IMAGES), 25, np.arange)
    assert [len(images) for images, _ in found.batches] == [25, 25, 10]


def test_memory_does_not_grow_with_the_images():
    """In a process of its own, of 100 classes: 5,000 and 20,000 images take the same."""
    code = """
import resource, sys, torch
from paperlib.scoring import rank
torch.set_num_threads(1)
weight = torch.randn(100, 192)
def batches():
    for k in range(int(sys.argv[1]) // 500):
        yield torch.randint(0, 256, (500, 3, 8, 8), dtype=torch.uint8), torch.arange(500) % 100
rank(lambda x: x.flatten(1) @ weight.T, batches(), ["none", "none+cutmix"], mean=0.5, std=0.25,
     replicates=2, batch=500)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    few, many = (
        int(
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code, str(images)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for images in (5_000, 20_000)
    )
    assert many < 1.1 * few
