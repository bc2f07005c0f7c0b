"""`paperlib train` and `paperlib export`: from a teacher and a folder to a file that runs."""

import json
import sys

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from paperlib.cli import main
from paperlib.quantizers import load_student
from paperlib.training import learners

NETS = """
import torch
from torch import nn
from torchvision.transforms import v2


def teacher():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )
    with torch.no_grad():  # each class has the channel of its colour, and some noise
        for layer, ins in ((net[0], 3), (net[2], 8)):
            layer.weight.mul_(0.1)
            layer.weight[:ins, :ins, 1, 1] += torch.eye(ins)
        net[6].weight.zero_()
        net[6].weight[:, :3] = 4 * torch.eye(3).flip(0)
    return net


inverted = erasing = v2.RandomInvert(1.0)
two = {"one": inverted, "other": inverted}
"""
SCALE = ["--mean", "0.4", "--std", "0.25"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("student_nets", None)
    (tmp_path / "student_nets.py").write_text(NETS)
    colours = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
    for part, count in (("train", 16), ("val", 6)):
        for name, colour in colours.items():
            for k in range(count):
                folder = tmp_path / "set" / part / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (10, 10), tuple(c + 3 * k for c in colour)).save(
                    folder / f"{k}.png"
                )
    return tmp_path


def train(*more, data="set", out="s.safetensors"):
    some = ["--teacher", "student_nets:teacher", "--data", data, *SCALE, "--workers", "0"]
    small = ["--epochs", "3", "--batch", "16", "--method", "lsq", "--bits", "4", "--out", out]
    return main(["train", *some, *small, *more])


def test_a_student_is_trained_exported_and_says_the_same(here, capsys):
    assert train("--augmentation", "trivialaugment") == 0
    assert "epoch 3/3" in capsys.readouterr().out
    curve = pd.read_csv(here / "s.csv")
    assert curve["epoch"].tolist() == [0, 1, 2] and curve["test_accuracy"].iloc[-1] > 60
    assert not list(here.glob("*.pt"))

    import student_nets

    student = load_student(here / "s.safetensors", student_nets.teacher)
    assert student.card.classes == ("blue", "green", "red") and student.card.weight_bits == 4
    assert student.card.mean == (0.4,) * 3

    files = ["s.safetensors", "s.onnx", "--data", "set", "--workers", "0"]
    assert main(["export", *files]) == 1  # code that a file names is not run
    assert "student_nets" not in capsys.readouterr().out
    assert main(["export", *files, "--network", "student_nets:teacher"]) == 0
    said = capsys.readouterr().out
    assert "of 18 pictures 18 get" in said  # those of val
    assert (here / "s.onnx").stat().st_size > 0


def test_what_was_interrupted_resumes_to_the_same_student(here, monkeypatch, capsys):
    assert train(out="whole.safetensors") == 0
    steps, step = [], learners.Single.epoch

    def third(self, epoch):
        if epoch == 2 and not steps:
            steps.append(epoch)
            raise KeyboardInterrupt
        return step(self, epoch)

    monkeypatch.setattr(learners.Single, "epoch", third)
    assert train(out="half.safetensors") == 130 and list(here.glob("half.epoch.pt"))
    assert not (here / "half.safetensors").exists()
    capsys.readouterr()
    assert train(out="half.safetensors") == 0
    said = capsys.readouterr().out
    assert "epoch 3/3" in said and "epoch 2/3" not in said
    whole, half = (load_file(here / f"{name}.safetensors") for name in ("whole", "half"))
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("change", [("--size", "9"), ("--mean", "0.5"), ("--std", "0.3"), ()])
def test_a_training_on_other_images_does_not_resume(here, monkeypatch, capsys, change):
    step = learners.Single.epoch

    def second(self, epoch):
        if epoch:
            raise KeyboardInterrupt
        return step(self, epoch)

    monkeypatch.setattr(learners.Single, "epoch", second)
    assert train() == 130
    monkeypatch.undo()
    monkeypatch.chdir(here)
    if not change:
        Image.new("RGB", (10, 10), (210, 0, 0)).save(here / "set/train/red/0.png")
    assert train(*change) == 0
    assert "epoch 1/3" in capsys.readouterr().out.rpartition("tested on")[2]


def test_pictures_to_test_on_are_looked_through(here, capsys):
    """A damaged file and a class that is not there, in training and in an export."""
    (here / "set/val/blue/0.png").write_bytes(b"")
    for k in range(6):
        (here / f"set/val/red/{k}.png").unlink()
    (here / "set/val/red").rmdir()
    export = ["export", "s.safetensors", "s.onnx", "--data", "set", "--workers", "0"]
    for do in (train, lambda: main([*export, "--network", "student_nets:teacher"])):
        assert do() == 0
        said = capsys.readouterr().out
        assert "1 of 12 files" in said and "['red']" in said and "blue/0.png" in said


def test_images_that_an_export_is_compared_on(here, capsys):
    """A known data set, and arrays; what does not fit the student is named."""
    import numpy as np

    from paperlib import load
    from paperlib.models import build
    from paperlib.quantizers import initialise, quantize, save_student

    digits, student = load("digits"), quantize(build("resnet8", 10), "lsq", 4, 4)
    initialise(student, digits.normalise(digits.train_images[:8]))
    save_student(student, here / "d.safetensors", digits.classes, digits.mean, digits.std)
    images = np.zeros((4, 32, 32, 3), np.uint8)
    np.savez("ten.npz", images=images, labels=[0, 1, 2, 10])
    np.savez("grey.npz", images=images[..., 0], labels=[0, 1, 2, 3])
    export = ["export", "d.safetensors", "d.onnx", "--images", "8", "--data"]
    assert main([*export, "digits"]) == 0
    assert "of 8 pictures" in capsys.readouterr().out
    for data, named in (("ten.npz", "label 10"), ("grey.npz", "1 channels")):
        assert main([*export, data]) == 1 and named in capsys.readouterr().err
    assert main([*export, "grey.npz", "--size", "9"]) == 1
    assert "--size" in capsys.readouterr().err
    save_student(student, here / "d.safetensors")
    assert main([*export, "digits"]) == 1
    assert "d.safetensors" in capsys.readouterr().err


def test_an_export_overwrites_no_student(here, capsys):
    assert train() == 0
    before = (here / "s.safetensors").read_bytes()
    assert main(["export", "s.safetensors", "s.safetensors", "--data", "set"]) == 1
    assert (here / "s.safetensors").read_bytes() == before


def test_the_pick_of_a_ranking_and_ones_own_augmentation(here, capsys):
    from paperlib.augment import POLICIES

    rows = [{"augmentation": "erasing+cutmix"}, {"augmentation": "none"}]
    (here / "ranking.json").write_text(json.dumps({"table": rows}))
    assert train("--augmentation", "ranking.json") == 0
    assert "augmentation erasing+cutmix" in capsys.readouterr().out
    try:
        assert train("--augmentation", "student_nets:inverted") == 0
        assert "augmentation inverted" in capsys.readouterr().out
    finally:
        POLICIES.pop("inverted", None)


def test_without_test_pictures_one_in_ten_is_kept_apart(here, capsys):
    assert train(data="set/train") == 0
    assert "tested on 3 of the 48" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, named",
    [
        (["--augmentation", "nope"], "nope"),
        (["--augmentation", "student_nets:nope"], "nope"),
        (["--augmentation", "gone.json"], "gone.json"),
        (["--augmentation", "student_nets:two"], "two"),
        (["--augmentation", "student_nets:erasing"], "erasing"),
        (["--teacher", "net.pt2"], "net.pt2"),
        (["--out", "s.pth"], "s.pth"),
        (["--out", "set.safetensors"], "set.safetensors"),
        (["--out", "student_nets.py/s.safetensors"], "student_nets.py"),
        (["--test", "nowhere"], "nowhere"),
        (["--lr", "-1"], "-1"),
        (["--epochs", "0"], "0"),
        (["--bits", "9"], "9"),
        (["--method", "nope"], "nope"),
        (["--loss", "nope"], "nope"),
    ],
)
def test_what_is_wrong_is_one_line(here, capsys, options, named):
    (here / "set.safetensors").mkdir()
    assert train(*options) in (1, 2)
    lines = [s for s in capsys.readouterr().err.splitlines() if not s.startswith("warning")]
    assert len(lines) == 1 and named in lines[0]


def test_a_file_that_is_no_student_is_named(here, capsys):
    save_file(nn.Linear(2, 2).state_dict(), here / "plain.safetensors")
    torch.save({}, here / "pickle.safetensors")
    for name in ("plain", "pickle", "gone"):
        path = f"{name}.safetensors"
        assert main(["export", path, "s.onnx", "--data", "set"]) == 1
        assert path in capsys.readouterr().err
    assert not (here / "s.onnx").exists()
