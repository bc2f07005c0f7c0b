"""`paperlib rank`, from a folder to a table and a page."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from paperlib.cli import main
from paperlib.scoring import rank, rank_within

COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}
NETS = """
import torch
from torch import nn
from torchvision.transforms import v2


class Colours(nn.Module):  # the channel of a class is the largest
    def __init__(self, order=(2, 1, 0), sharp=6.0):
        super().__init__()
        self.order, self.sharp = list(order), nn.Parameter(torch.tensor(sharp))

    def forward(self, x):
        return self.sharp * x.mean((2, 3))[:, self.order]


def teacher():
    return Colours()


def twelve():
    return Colours([2, 1, 0] * 4)


def guessing():
    return Colours([0, 0, 0])


def broken():
    return 1 / 0


def two():
    return Colours([2, 1])


def nothing():
    return Colours(sharp=float("nan"))


def softmax():
    return nn.Sequential(Colours(), nn.Softmax(1))


grey = v2.RandomGrayscale(1.0)
mine = {"inverted": lambda image: 255 - image, "none": "none"}
other = {"grey": v2.RandomInvert(1.0)}
text = "no network"
"""
TEACHER = ["--teacher", "own_nets:teacher", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in: a folder of 36 pictures with a space and an umlaut in its name, and
    networks.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("own_nets", None)
    (tmp_path / "own_nets.py").write_text(NETS)
    for name, colour in COLOURS.items():
        for k in range(12):
            folder = tmp_path / "my pictüres" / name
            folder.mkdir(parents=True, exist_ok=True)
            shade = tuple(min(255, value + 4 * k) for value in colour)
            Image.new("RGB", (16, 12), shade).save(folder / f"{k}.png")
    return tmp_path


def command(*more, teacher=TEACHER, data="my pictüres"):
    return main(["rank", *teacher, "--data", data, "--workers", "0", *more])


def test_a_folder_is_ranked_and_written(here, capsys):
    some = "none,erasing,trivialaugment,none+cutmix,own_nets:grey,own_nets:mine"
    assert command("--candidates", some, "--out", "out put", "--seed", "3") == 0
    said = capsys.readouterr().out
    assert "red -> 2 (12)" in said and "100.0%" in said

    table = pd.read_csv(here / "out put/ranking.csv")
    facts = json.loads((here / "out put/ranking.json").read_text())
    assert facts["images"] == 36 and facts["accuracy"] == 1.0 and facts["skipped"] == []
    assert [each["name"] for each in facts["classes"]] == list(COLOURS)
    assert [row["augmentation"] for row in facts["table"]] == table["augmentation"].tolist()

    import own_nets

    from paperlib.data.pictures import pictures

    names = {n: n for n in ("none", "erasing", "trivialaugment", "none+cutmix")}
    names |= {"grey": own_nets.grey, **own_nets.mine}
    scale = {"mean": 0.5, "std": 0.25, "seed": 3}
    same = rank(own_nets.teacher(), pictures("my pictüres"), names, **scale)
    pd.testing.assert_frame_equal(table, same, check_dtype=False, check_exact=False)

    page = (here / "out put/index.html").read_text()
    assert page.count("<tr") >= 1 + len(table) and "http://" not in page
    assert all(name in page for name in table["augmentation"])


def test_no_number_is_left_out_of_a_wide_table(here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    (here / "own_nets.py").write_text(NETS + f"long = {{'{'x' * 300}': 'none'}}\n")
    assert command("--candidates", "own_nets:long", "--out", "out") == 0
    row = next(s for s in capsys.readouterr().out.splitlines() if "x" * 300 in s)
    score = pd.read_csv(here / "out/ranking.csv")["score"][0]
    assert f"{score:.3f} [" in row and row.split()[-1] == "36"


def test_a_race_is_the_librarys(here, capsys):
    for name in COLOURS:
        for k in range(12, 60):
            shade = tuple(min(255, v + k) for v in COLOURS[name])
            Image.new("RGB", (16, 12), shade).save(here / "my pictüres" / name / f"{k}.png")
    some = ["none", "erasing", "trivialaugment"]
    assert command("--candidates", ",".join(some), "--budget", "0.5", "--out", "out") == 0
    import own_nets

    from paperlib.data.pictures import pictures

    found, how = pictures("my pictüres"), {"mean": 0.5, "std": 0.25}
    same = rank_within(own_nets.teacher(), found, some, 0.5, **how)
    table = pd.read_csv(here / "out/ranking.csv")
    pd.testing.assert_frame_equal(table, same, check_dtype=False, check_exact=False)
    assert json.loads((here / "out/ranking.json").read_text())["race"] == same.attrs


def _failed(capsys, *named):
    """One line of error, which names these."""
    found = capsys.readouterr().err
    lines = [line for line in found.splitlines() if not line.startswith("warning")]
    assert len(lines) == 1 and all(name in lines[0] for name in named), found


@pytest.mark.parametrize(
    "options, named",
    [
        (["--teacher", "own_nets:guessing"], "33.3%"),  # no better than a guess
        (["--teacher", "own_nets:nope"], "nope"),
        (["--teacher", "own_nets:broken"], "ZeroDivisionError"),
        (["--teacher", "own_nets:softmax"], "probabilities"),
        (["--teacher", "own_nets:twelve"], "12 outputs"),
        (["--teacher", "gone.pt2"], "gone.pt2"),
        (["--weights", "gone.safetensors"], "gone.safetensors"),
        (["--mean", "a,b"], "a,b"),
        (["--mean", "0.5,0.5"], "0.5"),
        (["--mean", ""], "mean"),
        (["--std", "0"], "0"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "own_nets.py"], "own_nets.py"),
        (["--candidates", "none,nope"], "nope"),
        (["--candidates", "own_nets:nope"], "nope"),
        (["--candidates", "own_nets:Colours"], "Colours"),
        (["--classes", "gone.txt"], "gone.txt"),
        (["--data", ""], "''"),
        (["--teacher", "own_nets:text"], "text"),
        (["--teacher", "own_nets:nothing"], "not finite"),
        (["--teacher", "own_nets:two"], "2 outputs"),
        (["--candidates", "own_nets:grey,own_nets:other"], "grey"),
        (["--out", "own_nets.py"], "own_nets.py"),
        (["--classes", "own_nets.pyc"], "own_nets.pyc"),
        (["--per-class", "1"], "3 pictures are too few"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_what_is_wrong_is_one_line(here, capsys, options, named):
    (here / "own_nets.pyc").write_bytes(b"\xff\xfe")
    assert command(*options) == 1
    _failed(capsys, named)


def test_wrong_options_have_a_status_of_their_own(here, capsys):
    assert main(["rank", "--data", "my pictüres"]) == 2
    _failed(capsys, "--teacher")
    wrong = [("--order", "up"), ("--per-class", "-1"), ("--size", "x"), ("--budget", "7")]
    for option, value in [*wrong, ("--precision", "int3"), ("--batch", "0"), ("--seed", "-1")]:
        assert command(option, value) == 2
        _failed(capsys, option, value)


def test_a_wrong_order_of_classes_is_seen(here, capsys):
    (here / "order.txt").write_text("red\nblue\ngreen\n")
    assert command("--classes", "order.txt") == 1
    _failed(capsys, "0.0%")
    (here / "order.txt").write_text("blue\ngreen\nred\n")
    assert command("--classes", "order.txt", "--candidates", "none") == 0
    (here / "order.txt").write_bytes(b"\xef\xbb\xbfblue\r\n\r\ngreen\r\nred\r\n")  # of Windows
    assert command("--classes", "order.txt", "--candidates", "none") == 0


@pytest.fixture
def twelve(here):
    """Folders 0 .. 11 for a teacher whose output k is the folder k."""
    for k in range(12):
        folder = here / "numbers" / str(k)
        folder.mkdir(parents=True)
        for shade in range(12):
            Image.new("RGB", (8, 8), (20 * k, 100, 5 * shade)).save(folder / f"{shade}.png")
    (here / "own_nets.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "class Reds(nn.Module):\n"
        "    def forward(self, x):\n"
        "        red = 12.75 * (x.mean((2, 3))[:, :1] * 0.25 + 0.5)\n"
        "        return -4 * (red - torch.arange(12)) ** 2\n"
    )
    return here


@pytest.mark.parametrize("order, right", [("auto", True), ("number", True), ("text", False)])
def test_folders_with_numbers(twelve, capsys, order, right):
    """Sorted as text, 10 stands before 2: two classes of twelve keep their place."""
    some = ["--candidates", "none", "--order", order, "--out", "out"]
    status = command(*some, teacher=["--teacher", "own_nets:Reds", *TEACHER[2:]], data="numbers")
    if not right:
        assert capsys.readouterr().out.count("16.7%") == 1
    if right:
        assert status == 0
        facts = json.loads((twelve / "out/ranking.json").read_text())
        assert facts["accuracy"] == 1.0
        assert [each["name"] for each in facts["classes"]] == list(map(str, range(12)))


def test_a_teacher_of_more_classes_gives_those_there_are(here, capsys):
    (here / "all.txt").write_text("blue\ngreen\nred\n" + "\n".join("abcdefghi"))
    twelve = ["--teacher", "own_nets:twelve", "--classes", "all.txt"]
    assert command(*twelve) == 1
    _failed(capsys, "'a'", "--subset")
    assert command(*twelve, "--subset", "--candidates", "none,erasing", "--out", "out") == 0
    assert command("--candidates", "none,erasing", "--out", "three") == 0
    one, other = (pd.read_csv(here / name / "ranking.csv") for name in ("out", "three"))
    pd.testing.assert_frame_equal(one, other)


def test_train_above_the_classes_is_taken(here, capsys):
    (here / "parts").mkdir()
    (here / "my pictüres").rename(here / "parts/train")
    (here / "parts/val/red").mkdir(parents=True)
    assert command("--candidates", "none", data="parts") == 0
    assert "train" in capsys.readouterr().out


def test_damaged_files_are_named_and_counted(here, capsys):
    (here / "my pictüres/red/0.png").write_bytes(b"")
    (here / "my pictüres/red/notes.txt").write_text("")
    assert command("--candidates", "none", "--out", "out") == 0
    said = capsys.readouterr().out
    assert "notes.txt" in said and "0.png" in said and "1 of 36" in said
    facts = json.loads((here / "out/ranking.json").read_text())
    assert facts["images"] == 35 and facts["skipped"][0][0].endswith("0.png")
    assert "0.png" in (here / "out/index.html").read_text()


def test_any_name_of_a_file_is_written(here, capsys):
    """A line break, what a terminal obeys, and a byte that is no UTF-8."""
    import os

    strange = os.fsdecode(b"z\nb\x1b[2J\xff.png")
    (here / "my pictüres/red" / strange).write_bytes(b"")
    (here / "my pictüres/red").rename(here / "my pictüres" / strange)
    assert command("--candidates", "none", "--out", "out") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\nb" not in said and r"z\nb\x1b[2J\udcff.png -> 2 (12)" in said
    facts = json.loads((here / "out/ranking.json").read_text())
    assert facts["classes"][2]["name"] == strange and facts["skipped"][0][0].endswith(strange)
    assert r"\udcff.png" in (here / "out/index.html").read_text()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_file_that_goes_away_later_is_named(here, capsys, monkeypatch, workers):
    from paperlib.cli import bringing

    usable = bringing.usable

    def then_damaged(*given):
        found = usable(*given)
        (here / "my pictüres/red/5.png").write_bytes(b"")
        return found

    monkeypatch.setattr(bringing, "usable", then_damaged)
    assert command("--workers", workers) == 1
    _failed(capsys, "red/5.png")


def test_pictures_of_two_sizes_need_one(here, capsys):
    Image.new("RGB", (5, 4), COLOURS["red"]).save(here / "my pictüres/red/0.png")
    assert command() == 1
    _failed(capsys, "16 x 12", "5 x 4", "red/0.png")
    assert command("--size", "8", "--candidates", "none") == 0


def test_what_lies_beside_the_classes_is_named(here, capsys):
    (here / "my pictüres/gone").symlink_to("nowhere")
    assert command("--candidates", "none") == 0
    assert "gone" in capsys.readouterr().out


def test_options_that_the_images_have_no_use_for(here, capsys):
    import numpy as np

    colours = np.array(list(COLOURS.values()), np.uint8)[np.arange(30) % 3]
    images, some = np.tile(colours[:, None, None], (1, 8, 8, 1)), {"data": "set.npz"}
    np.savez("set.npz", images=images, labels=np.arange(30) % 3)
    assert command("--candidates", "none", **some) == 0
    for option in (["--subset"], ["--size", "9"], ["--per-class", "2"]):
        capsys.readouterr()
        assert command(*option, **some) == 1
        _failed(capsys, option[0])
    for labels, classes, named in (
        (np.arange(30) % 3 * 10**9, [], "2000000000"),
        (np.arange(30) % 3, ["a", "b"], "2 classes"),
        (np.arange(30) % 3, ["a", "b", "b"], "'b'"),
        (np.arange(30) % 3 + 1, [], "4 classes"),
    ):
        np.savez(
            "set.npz", images=images, labels=labels, **({"classes": classes} if classes else {})
        )
        capsys.readouterr()
        assert command(**some) == 1
        _failed(capsys, named)
    (here / "three.txt").write_text("a\nb\nc\n")
    assert command("--classes", "three.txt", data="digits") == 1
    _failed(capsys, "--classes", "digits")


def test_a_text_of_the_folder_is_no_html(here, capsys):
    (here / "my pictüres/blue").rename(here / "my pictüres/<b>blue")
    assert command("--candidates", "none", "--out", "out") == 0
    assert "<b>blue" not in (here / "out/index.html").read_text()
    assert "<b>blue" in capsys.readouterr().out


def test_an_npz_file_and_timms_own_normalisation(here):
    import numpy as np
    import timm

    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=2)
    images = np.random.default_rng(0).integers(256, size=(40, 32, 32, 3), dtype=np.uint8)
    mean, std = (np.array(net.pretrained_cfg[name]) for name in ("mean", "std"))
    x = torch.tensor((images / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        net.classifier.bias -= net.eval()(x).mean(0)
        labels = net(x).argmax(1)
    save_file(net.state_dict(), here / "w.safetensors")
    np.savez(here / "set.npz", images=images, labels=labels)
    teacher = ["--teacher", "timm:mobilenetv3_small_050", "--weights", "w.safetensors"]
    some = ["--candidates", "none", "--out", "out"]
    assert command(*some, teacher=teacher, data="set.npz") == 0
    assert json.loads((here / "out/ranking.json").read_text())["accuracy"] == 1.0


def test_help_lists_every_option(capsys):
    assert main(["rank", "--help"]) == 0 and main(["--help"]) == 0 and main([]) == 0


def test_a_known_data_set_brings_its_own_scale():
    """Digits, which a mirror changes."""
    from paperlib import load
    from paperlib.cli.bringing import Wanted, bring

    weights = Path(__file__).parents[1] / "results/explore/digits_resnet8_certain.safetensors"
    usual = dict.fromkeys(("classes", "mean", "std"), "") | dict.fromkeys(("size", "seed"), 0)
    usual |= {"order": "auto", "subset": False, "per_class": 0, "device": "cpu", "workers": 0}
    digits, said = load("digits"), []
    for given, mirror in ((None, False), (True, True)):
        wanted = Wanted("resnet8", str(weights), "digits", mirror=given, **usual)
        found = bring(wanted, said.append)
        assert found.mirror == mirror and found.glance.accuracy > 0.95
        assert (found.look.mean, found.look.std) == (digits.mean, digits.std)
        assert found.classes == digits.classes and found.labels.equal(digits.train_labels)


def test_an_interruption_is_one_line(here, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("paperlib.cli.bringing.bring", interrupted)
    assert command() == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_shell_completes_names(monkeypatch, capsys):
    monkeypatch.setenv("_PAPERLIB_COMPLETE", "complete_bash")
    for words, wanted in (("run --table r", {"ranking", "regimes"}), ("tr", {"train"})):
        monkeypatch.setenv("COMP_WORDS", f"paperlib {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        with pytest.raises(SystemExit) as ended:
            main([])
        assert ended.value.code == 0
        assert wanted <= set(capsys.readouterr().out.split())
