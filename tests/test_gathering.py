"""Data sets of one's own become a `Dataset` that trains."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from paperlib.basics.recipe import Recipe
from paperlib.data import dataset_of, gather
from paperlib.data.gathering import moments
from paperlib.losses import objective
from paperlib.training import Task, fit

RNG = np.random.default_rng(0)
LABELS = np.arange(20) % 4
PIXELS = RNG.integers(0, 64, (20, 8, 8, 3), dtype=np.uint8)
PIXELS += (60 * LABELS).astype(np.uint8)[:, None, None, None]  # a class is a brightness
IMAGES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous()


class Pairs(torch.utils.data.Dataset):
    """What people write."""

    classes = ["a", "b", "c", "d"]

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, k):
        if not 0 <= k < len(self):
            raise IndexError(k)
        return self.make(PIXELS[k]), int(LABELS[k])


FORMS = {
    "pictures": lambda: Pairs(Image.fromarray),
    "arrays": lambda: Pairs(lambda x: x),
    "floats": lambda: Pairs(v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])),
    "tensors": lambda: TensorDataset(IMAGES, torch.from_numpy(LABELS)),
    "loader": lambda: DataLoader(Pairs(lambda x: v2.functional.to_image(x)), batch_size=7),
    "generator": lambda: iter(Pairs(lambda x: x)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tensors(form):
    images, labels = gather(FORMS[form]())
    assert torch.equal(images, IMAGES) and labels.tolist() == LABELS.tolist()


def test_a_folder_of_images_becomes_a_data_set_that_trains(tmp_path):
    for k, pixels in enumerate(PIXELS):
        folder = tmp_path / "train" / "wxyz"[LABELS[k]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    source = torchvision.datasets.ImageFolder(tmp_path / "train", v2.Resize((16, 16)))
    data = dataset_of(source, source, file=tmp_path / "images")
    assert data.classes == ("w", "x", "y", "z") and data.view_shape == (16, 16)
    assert (tmp_path / "images").stat().st_size == data.train_images.numel() == 20 * 3 * 16 * 16
    assert torch.equal(data.train_images, data.test_images)
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    recipe = Recipe(6, 10, 0.05, 0.0, "sgd")
    curve = fit(network, Task(data, "none", objective("ce"), recipe, 0))
    assert curve[-1]["loss"] < curve[0]["loss"]
    with pytest.raises(FileExistsError):
        dataset_of(source, source, file=tmp_path / "images")


def test_the_scale_is_the_training_images_own_unless_given():
    x = PIXELS.astype(np.float64) / 255
    mean, std = moments(IMAGES)
    assert np.allclose(mean, x.mean((0, 1, 2))) and np.allclose(std, x.std((0, 1, 2)))
    own = dataset_of(Pairs(lambda x: x), Pairs(lambda x: x), name="mine", mean=(0.5,) * 3)
    assert dataset_of(Pairs(lambda x: x), Pairs(lambda x: x), mean=0.5).mean == own.mean
    assert own.mean == (0.5,) * 3 and own.std == std and own.name == "mine"
    flat = moments(torch.full((2, 3, 4, 4), 51, dtype=torch.uint8))
    assert np.allclose(flat, [[0.2] * 3, [1.0] * 3])


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda x: x[..., :1], "1 channels"),
        (lambda x: x[: 8 - 2 * (x[0, 0, 0] % 2)], "shape|size"),
        (lambda x: torch.from_numpy(x).permute(2, 0, 1) / 255 - 0.5, "0..1"),
    ],
)
def test_what_cannot_be_gathered_is_named(make, named):
    with pytest.raises(ValueError, match=named):
        gather(Pairs(make))


def test_train_and_test_number_their_classes_alike():
    """Of folders, one may lack a class; then its labels mean others."""
    other = Pairs(lambda x: x)
    other.classes = ["a", "c", "d"]
    with pytest.raises(ValueError, match="'c', 'd'"):
        dataset_of(Pairs(lambda x: x), other)


def test_nothing_is_no_data():
    for nothing in ([], iter([])):
        with pytest.raises((ValueError, TypeError)):
            gather(nothing)
    with pytest.raises(ValueError, match="file"):
        gather(iter(Pairs(lambda x: x)), file="unused")
