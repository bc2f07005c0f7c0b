"""Folders of pictures as people have them: damaged files, strange formats, strange folders."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paperlib.data.pictures import arrays, decode, numbered, pictures, readable, splits
from paperlib.scoring import rank

RED = (250, 10, 20)


def picture(path, colour=RED, size=(9, 6), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("cat/1.png", "cat/2.JPG", "dog/deep/3.png"):
        picture(tmp_path / "set" / name)
    return tmp_path / "set"


def test_what_is_no_class_and_no_picture(folder):
    for name in (".git/1.png", "__MACOSX/1.png", "cat/.2.png", ".DS_Store", "cat/._1.png"):
        picture(folder / Path(name).parent / "x.png")
        (folder / name).write_bytes(b"")
    (folder / "cat/.x.png").write_bytes(b"")
    (folder / "cat/x.png").unlink()
    (folder / "x.png").unlink()
    (folder / "cat/readme.txt").write_text("")
    found = pictures(folder)
    assert found.classes == ("cat", "dog") and found.targets == (0, 0, 1)
    assert [path.name for path in found.ignored] == ["readme.txt"]


def test_the_order_is_image_folders(tmp_path):
    from torchvision.datasets import ImageFolder

    names = [str(k) for k in range(12)]
    for name in names:
        picture(tmp_path / name / "1.png")
    found, theirs = pictures(tmp_path), ImageFolder(tmp_path)
    assert list(found.classes) == theirs.classes != names
    assert [str(path) for path in found.files] == [path for path, _ in theirs.samples]
    assert list(found.targets) == theirs.targets
    assert numbered(found.classes) == names
    assert numbered(["b 10", "b 9", "a"]) == ["a", "b 9", "b 10"]
    assert numbered(["x", "y"]) is None and numbered(["01", "02", "10"]) is None


def test_a_list_of_classes_says_the_outputs(folder):
    found = pictures(folder, ["bird", "dog", "cat"])
    assert found.targets == (2, 2, 1) and len(found.classes) == 3
    with pytest.raises(ValueError, match="dog"):
        pictures(folder, ["bird", "cat"])
    with pytest.raises(ValueError, match="cat"):
        pictures(folder, ["cat", "dog", "cat"])


def test_an_accent_is_the_same_however_it_is_written(folder):
    (folder / "dog").rename(folder / "do\u0308g")  # as macOS writes it
    assert pictures(folder, ["d\u00f6g", "cat"]).targets == (1, 1, 0)
    picture(folder / "d\u00f6g/1.png")
    with pytest.raises(ValueError, match="twice"):
        pictures(folder)


def test_train_and_val_are_no_classes(tmp_path, folder):
    for part in ("val", "Train"):
        for name in ("cat", "dog"):
            picture(tmp_path / "parts" / part / name / "1.png")
    assert splits(tmp_path / "parts") == ["Train", "val"] and splits(folder) == []
    with pytest.raises(ValueError, match="Train, val"):
        pictures(tmp_path / "parts")
    for name in ("train", "test"):  # classes of these names: nothing below them
        picture(tmp_path / "vehicles" / name / "1.png")
    assert pictures(tmp_path / "vehicles").classes == ("test", "train")


def test_folders_without_classes_are_named(tmp_path):
    with pytest.raises(ValueError, match="two at least"):
        pictures(tmp_path)
    picture(tmp_path / "one/1.png")
    with pytest.raises(ValueError, match="one"):
        pictures(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="'none' has no picture"):
        pictures(tmp_path)
    with pytest.raises(FileNotFoundError):
        pictures(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError):
        pictures(tmp_path / "one/1.png")


def _huge(path):
    """The header of a PNG of 900 megapixels, and nothing else."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    content = struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content + struct.pack(">I", 0) + b"IDAT" + b"\0" * 4)


BAD = {
    "truncated.jpg": lambda path: path.write_bytes(_jpeg()[:-400]),
    "empty.png": lambda path: path.write_bytes(b""),
    "text.png": lambda path: path.write_text("no picture"),
    "program.png": lambda path: Image.new("RGB", (4, 4)).save(path, format="EPS"),
    "pipe.png": os.mkfifo,
    "loop.png": lambda path: path.symlink_to(path),
    "nowhere.png": lambda path: path.symlink_to("gone.png"),
    "folder.png": Path.mkdir,
    "device.png": lambda path: path.symlink_to("/dev/zero"),
    "huge.png": _huge,
    "integers.tiff": lambda path: Image.fromarray(np.full((4, 4), 200, np.int32)).save(path),
    "floats.tiff": lambda path: Image.fromarray(np.ones((4, 4), np.float32)).save(path),
}


def _jpeg():
    import io

    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("workers", [0, 2])
def test_every_bad_file_is_named_and_the_others_are_taken(folder, workers):
    for name, make in BAD.items():
        make(folder / "cat" / name)
    good, bad = readable(pictures(folder), workers)
    assert {path.name for path, _ in bad} == set(BAD) - {"folder.png"}
    assert all(reason for _, reason in bad)
    assert [path.name for path in good.files] == ["1.png", "2.JPG", "3.png"]
    assert good.targets == (0, 0, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(folder):
    (folder / "cat/1.png").chmod(0)
    _, bad = readable(pictures(folder))
    assert [(path.name, reason) for path, reason in bad] == [("1.png", "Permission denied")]


def test_a_class_that_loses_all_its_pictures_is_named(folder):
    (folder / "dog/deep/3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"dog.*3\.png"):
        readable(pictures(folder))


def test_links_to_folders_are_not_followed_round_in_a_circle(folder):
    (folder / "cat/again").symlink_to(folder)
    found = pictures(folder)
    assert len(found) == 3 and [path.name for path in found.ignored] == ["again"]
    (folder / "all").symlink_to(".")
    with pytest.raises(ValueError, match="'all'"):
        pictures(folder)


def test_what_is_beside_the_classes_is_told(folder):
    picture(folder / "1.png")
    (folder / "bird").symlink_to("nowhere")
    assert [path.name for path in pictures(folder).ignored] == ["1.png", "bird"]


def test_a_file_that_cannot_be_read_later_is_named(folder):
    found = pictures(folder)
    (folder / "cat/1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cat/1\.png"):
        found[0]


def _pixel(path):
    image = decode(path)
    assert image.mode == "RGB"
    return np.asarray(image)[0, 0].tolist()


def test_grey_of_sixteen_bits_is_scaled(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    for name in ("grey.png", "grey.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.asarray(decode(tmp_path / name))[0, :, 0].tolist() == [0, 100, 255], name


def test_other_modes_become_what_they_show(tmp_path):
    def saved(image, name, **options):
        image.save(tmp_path / name, **options)
        return _pixel(tmp_path / name)

    plain = Image.new("RGB", (8, 8), RED)
    assert saved(plain.convert("P", palette=Image.Palette.ADAPTIVE), "palette.png") == list(RED)
    assert saved(plain.convert("RGBA"), "alpha.png") == list(RED)
    assert saved(Image.new("RGBA", (8, 8), (*RED, 0)), "clear.png") == list(RED)  # as torchvision
    assert saved(Image.new("LA", (8, 8), (77, 3)), "la.png") == [77] * 3
    assert saved(Image.new("1", (8, 8), 1), "bits.png") == [255] * 3
    assert saved(plain, "capitals.PNG") == list(RED)
    cmyk = saved(plain.convert("CMYK"), "cmyk.jpg", quality=95)
    assert np.abs(np.array(cmyk) - RED).max() < 12
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    assert saved(frames[0], "two.gif", save_all=True, append_images=frames[1:]) == list(RED)


def test_a_picture_stands_upright(tmp_path):
    image = Image.new("RGB", (8, 4), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert Image.open(tmp_path / "turned.jpg").size == (8, 4)
    assert decode(tmp_path / "turned.jpg").size == (4, 8)


def test_pictures_are_ranked_as_their_arrays(folder):
    for k in range(20):
        picture(folder / "cat" / f"more{k}.png", (12 * k, 40, 90))
        picture(folder / "dog" / f"more{k}.png", (40, 12 * k, 200))
    net = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)
    )
    found, scale = pictures(folder), {"mean": 0.5, "std": 0.25, "replicates": 0}
    one = rank(net, found, ["none", "erasing"], **scale)
    images = torch.stack([found[k][0] for k in range(len(found))]).numpy()
    other = rank(net, (images, list(found.targets)), ["none", "erasing"], **scale)
    np.testing.assert_allclose(one["score"], other["score"], rtol=1e-6)


def test_arrays_of_a_file(tmp_path):
    path, images = tmp_path / "set.npz", np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(path, images=images, labels=[0, 1, 0, 1], classes=["a", "b"])
    found, labels, names = arrays(path)
    assert found.shape == (4, 3, 8, 8) and labels.tolist() == [0, 1, 0, 1] and names == ("a", "b")
    for content in (
        {"images": images, "labels": [0, 1, 0]},
        {"images": images},
        {"images": images, "labels": [0, 1, -1, 0]},
        {"images": images.astype(float) - 1, "labels": [0, 1, 0, 1]},
        {"images": images, "labels": np.array([0, 1, 0, {}], object)},
    ):
        np.savez(path, **content)
        with pytest.raises(ValueError, match=r"set\.npz"):
            arrays(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"set\.npz"):
        arrays(path)
    with pytest.raises(FileNotFoundError):
        arrays(tmp_path / "gone.npz")
