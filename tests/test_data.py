"""Loading, checking and subsetting; every bad file is refused by name."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from paperlib import data
from paperlib.data import Dataset, balanced_indices, load, resized, subset, validation_split


def cifar_arrays(classes=10, train=40, test=20):
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (train, 32, 32, 3)).astype(np.uint8),
        "train_labels": np.arange(train) % classes,
        "test_images": rng.integers(0, 256, (test, 32, 32, 3)).astype(np.uint8),
        "test_labels": np.arange(test) % classes,
        "classes": np.array([f"class {i}" for i in range(classes)]),
    }


def test_digits():
    digits = load("digits")
    assert digits.train_images.shape == (1297, 3, 32, 32) and digits.test_images.shape == (
        500,
        3,
        32,
        32,
    )
    assert torch.bincount(digits.test_labels).tolist() == [50] * 10
    x = digits.train_images.float() / 255
    assert x.mean().item() == pytest.approx(
        digits.mean[0], abs=1e-3
    ) and x.std().item() == pytest.approx(digits.std[0], abs=1e-3)
    # no test image is a training image
    rows = {image.numpy().tobytes() for image in digits.train_images}
    assert sum(image.numpy().tobytes() in rows for image in digits.test_images) == 0
    # bilinear up-scaling as torch's, to within rounding
    with np.load(Path(data.__file__).with_name("digits.npz")) as arrays:
        small = torch.from_numpy(arrays["images"]).float()[:, None]
    large = torch.nn.functional.interpolate(small * 255 / 16, scale_factor=4, mode="bilinear")
    every = torch.cat([digits.train_images, digits.test_images])[:, 0].float()
    ours, theirs = (sorted(v.double().sum((-1, -2)).flatten().tolist()) for v in (every, large))
    assert np.abs(np.array(ours) - np.array(theirs)).max() < 0.5 * 1024


@pytest.mark.filterwarnings("ignore:.*holds 20 of cifar10's")
def test_npz_gives_the_same_tensors_in_any_order(tmp_path):
    arrays = cifar_arrays()
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    np.savez(tmp_path / "a/cifar10.npz", **arrays)
    order = np.random.default_rng(1).permutation(40)
    np.savez(
        tmp_path / "b/cifar10.npz",
        **arrays | {n: arrays[n][order] for n in ("train_images", "train_labels")},
    )
    with pytest.warns(UserWarning, match="holds 40 of cifar10's 50000 train images"):
        first, second = load("cifar10", tmp_path / "a"), load("cifar10", tmp_path / "b")
    assert torch.equal(first.train_images, second.train_images) and torch.equal(
        first.train_labels, second.train_labels
    )
    shown = {
        (i.numpy().tobytes(), int(y))
        for i, y in zip(first.train_images, first.train_labels, strict=True)
    }
    given = {
        (i.transpose(2, 0, 1).tobytes(), int(y))
        for i, y in zip(arrays["train_images"], arrays["train_labels"], strict=True)
    }
    assert shown == given


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(train_labels=np.full(40, 3)), "every class"),
        (dict(train_labels=np.arange(40) % 11), "0..9"),
        (dict(train_labels=np.arange(40) % 10 - 1), "train_labels"),
        (dict(test_labels=np.arange(19)), "test_labels"),
        (dict(train_labels=(np.arange(40) % 10).astype(np.float32)), "int64"),
        (dict(train_images=np.zeros((40, 3, 32, 32), np.uint8)), "train_images"),
        (dict(test_images=np.zeros((20, 32, 32, 3), np.float32)), "test_images"),
        (dict(classes=np.arange(100)), "100 classes"),
        (dict(classes=np.array([object()] * 10)), "pickle"),
    ],
)
def test_wrong_npz_is_refused_by_name(tmp_path, change, named):
    np.savez(tmp_path / "cifar10.npz", **cifar_arrays() | change)
    with pytest.raises(ValueError, match=rf"cifar10\.npz.*{named}"):
        load("cifar10", tmp_path)


def test_truncated_and_incomplete_npz(tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **cifar_arrays())
    whole = path.read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cifar10\.npz"):
            load("cifar10", tmp_path)
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match=r"cifar10\.npz"):
        load("cifar10", tmp_path)
    np.save(tmp_path / "array.npy", np.arange(3))
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(ValueError, match=r"cifar10\.npz"):
        load("cifar10", tmp_path)
    arrays = cifar_arrays()
    del arrays["test_labels"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="test_labels"):
        load("cifar10", tmp_path)


def test_complete_sets_must_be_the_real_ones(tmp_path, monkeypatch):
    arrays = cifar_arrays(train=50_000)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    with pytest.raises(ValueError, match="not those of cifar10"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet"])
def test_absent_data_name_the_ways_to_get_them(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"PAPERLIB_DATA[\s\S]*1\. [\s\S]*2\. [\s\S]*3\. "):
        load(name, tmp_path, download=False)


def test_tiny_imagenet_layout(tmp_path):
    from PIL import Image

    folder, rng = tmp_path / "tiny-imagenet-200", np.random.default_rng(0)
    wnids = ["n03", "n01", "n02"]  # the last one has no training folder, as in a partial copy

    def picture(path, mode="RGB"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)).convert(mode).save(path)

    for wnid in wnids[:2]:
        for i in range(3):
            picture(
                folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", "L" if i == 2 else "RGB"
            )
    for i in range(len(wnids)):
        picture(folder / "val/images" / f"val_{i}.JPEG")
    (folder / "wnids.txt").write_text("\n".join(wnids))
    (folder / "val/val_annotations.txt").write_text(
        "".join(f"val_{i}.JPEG\t{w}\t0\t0\t63\t63\n" for i, w in enumerate(wnids))
    )
    tiny = load("tiny-imagenet", tmp_path)
    assert tiny.classes == ("n01", "n03")
    assert tiny.train_images.shape == (6, 3, 64, 64) and tiny.train_labels.tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
    ]
    assert tiny.test_labels.tolist() == [1, 0]
    grey = tiny.train_images[2]
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[1], grey[2])
    first = folder / "train/n01/images/n01_0.JPEG"
    fresh = first.read_bytes()
    first.write_bytes((folder / "train/n01/images/n01_1.JPEG").read_bytes())
    with pytest.raises(ValueError, match=r"n01_0\.JPEG"):  # another picture than at first
        load("tiny-imagenet", tmp_path)
    first.write_bytes(fresh)
    picture(folder / "train/n01/images/n01_9.JPEG")  # one more is no fault
    assert len(load("tiny-imagenet", tmp_path).train_images) == 7
    first.write_bytes(b"no picture")
    (tmp_path / "tiny-imagenet-200.sha256.json").unlink()
    with pytest.raises(ValueError, match=r"n01_0\.JPEG"):
        load("tiny-imagenet", tmp_path)


def test_subsets_are_balanced_seeded_and_apart():
    labels = torch.arange(1000) % 7
    chosen = balanced_indices(labels, 100, seed=3)
    assert torch.equal(chosen, balanced_indices(labels, 100, seed=3))
    assert not torch.equal(chosen, balanced_indices(labels, 100, seed=4))
    counts = torch.bincount(labels[chosen])
    assert len(chosen.unique()) == 100 and counts.max() - counts.min() <= 1
    digits = load("digits")
    small = subset(digits, train=100, test=50)
    assert torch.bincount(small.train_labels).tolist() == [10] * 10 and len(small.test_images) == 50
    choices = validation_split(digits, images=200)
    rows = {image.numpy().tobytes() for image in digits.test_images}
    kept = {image.numpy().tobytes() for image in choices.train_images}
    for image in choices.test_images:  # from the training images, and no longer among them
        assert image.numpy().tobytes() not in rows | kept
    for count, named in ((5, "5"), (5000, "5000")):
        with pytest.raises(ValueError, match=named):
            subset(digits, train=count)


def test_bad_tensors_are_named():
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    Dataset("own", images, labels, images, labels, ("a", "b"))
    with pytest.raises(ValueError, match="float32"):
        Dataset("own", images.float(), labels, images, labels, ("a", "b"))
    with pytest.raises(ValueError, match="found 1"):
        Dataset("own", images, labels, images, labels, ("a",))
    with pytest.raises(TypeError, match="ndarray"):
        Dataset("own", images.numpy(), labels, images, labels, ("a", "b"))
    with pytest.raises(ValueError, match="mnist"):
        load("mnist")


def test_normalise():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    out = data.normalise(images, (0.1, 0.5, 0.9), (0.2, 0.25, 0.5))
    expected = [(0 - 0.1) / 0.2, (128 / 255 - 0.5) / 0.25, (1 - 0.9) / 0.5]
    assert out.flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_test_views():
    """None and the images' own side leave them alone; 224 tests at 256 x 256, and others in that
    proportion, as torchvision.
    """
    from torchvision.transforms.v2 import functional as TF

    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (6, 3, 64, 64)).astype(np.uint8)
    )
    labels = torch.zeros(6, dtype=torch.long)
    tiny = Dataset("own", images, labels, images, labels, ("a",))
    assert tiny.size is None and tiny.view_shape == (64, 64) and tiny.test_views(images) is images
    assert (
        resized(tiny, 64).test_views(images) is images
        and resized(resized(tiny, 64), None).size is None
    )
    for size, side in ((224, 256), (32, 37), (112, 128)):
        data = resized(tiny, size)
        views = data.test_views(images)
        theirs = TF.resize(images, [side, side], antialias=True)
        assert (
            data.view_shape == (size, size)
            and views.dtype == torch.uint8
            and views.shape == (6, 3, side, side)
        )
        assert (views.int() - theirs.int()).abs().max() <= 1
        assert (
            subset(data, test=1).size
            == validation_split(data, images=2).size
            == data.to("cpu").size
            == size
        )
    with pytest.raises(ValueError, match="-1"):
        resized(tiny, -1)


def _npz(path, **changes):
    arrays = {
        "train_images": np.zeros((4, 32, 32, 3), np.uint8),
        "train_labels": np.array([0, 1, 0, 1]),
        "test_images": np.zeros((2, 32, 32, 3), np.uint8),
        "test_labels": np.array([0, 1]),
        "classes": np.array(["a", "b"]),
    }
    np.savez(path, **arrays | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_labels": np.array([0, 1, 0, 10**15])},
        {"test_labels": np.array([0, -1])},
        {"train_images": np.zeros((4, 32, 32, 3))},
        {"classes": np.array([object()])},
    ],
)
def test_an_npz_with_wrong_values_is_named(tmp_path, changes):
    _npz(tmp_path / "cifar10.npz", **changes)
    with pytest.raises(ValueError, match="cifar10"):
        load("cifar10", tmp_path, download=False)


def test_an_npz_whose_header_lies_about_its_size_is_named(tmp_path):
    """A shape of 2^60 images in the header of one array: no memory is asked for in vain."""
    _npz(tmp_path / "whole.npz")
    with (
        zipfile.ZipFile(tmp_path / "whole.npz") as whole,
        zipfile.ZipFile(tmp_path / "cifar10.npz", "w") as lying,
    ):
        for name in whole.namelist():
            content = whole.read(name)
            if name == "train_images.npy":
                header, shape = io.BytesIO(), (2**60, 32, 32, 3)
                facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(header, facts)
                content = header.getvalue() + content[-1000:]
            lying.writestr(name, content)
    with pytest.raises(ValueError, match="cifar10"):
        load("cifar10", tmp_path, download=False)
