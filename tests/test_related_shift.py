"""ShiftKD: corruptions against a slow transcription of their source, tints, superclasses, and one
tiny end to end run.
"""

import io
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage

from paperlib.augment import generator
from paperlib.basics.recipe import Recipe
from paperlib.data import DATASETS, Dataset, load
from paperlib.reporting.style import read_table
from paperlib.runs.sweep import sweep
from paperlib.study import plan
from paperlib.study.config import Data, StudentRun, TeacherRun
from paperlib.study.store import Store
from related.shift import report
from related.shift.corruptions import CORRUPTIONS, corrupt
from related.shift.method import superclasses, tint, tinted, tints
from related.shift.study import PLAIN, SUPERCLASSES, TINTED, ShiftRun

# Digits, noise, and smooth colours that are no whole numbers after a blur.
WAVES = np.sin(np.add.outer(np.arange(32) / 5, np.arange(32) / np.array([[3], [7], [9]])))
PICTURES = torch.stack(
    [
        load("digits").test_images[0],
        (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255).byte(),
        torch.from_numpy(127 + 120 * WAVES).permute(1, 0, 2).byte(),
    ]
)

# -------------------------- slow transcriptions: one image (32, 32, 3) of 0 .. 1 and its own draws


def zoomed(image, factor):
    cut = math.ceil(32 / factor)
    top = (32 - cut) // 2
    factors = (factor, factor, 1)
    large = ndimage.zoom(image[top : top + cut, top : top + cut], factors, order=1)
    trim = (large.shape[0] - 32) // 2
    return large[trim : trim + 32, trim : trim + 32]


def streaked(image, angle, radius, sigma):
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(2 * radius + 1)]
    out = np.zeros_like(image)
    for k, weight in enumerate(weights):
        down = math.ceil(k * math.sin(math.radians(angle)) - 0.5)
        right = math.ceil(k * math.cos(math.radians(angle)) - 0.5)
        for h in range(32):
            for w in range(32):
                y, x = min(max(h + down, 0), 31), min(max(w + right, 0), 31)
                out[h, w] += weight / sum(weights) * image[y, x]
    return out


def defocus(image, radius, sigma):
    grid = [[float(y * y + x * x <= radius * radius) for x in range(-8, 9)] for y in range(-8, 9)]
    disk = np.array(grid) / np.sum(grid)
    taps = np.exp([-1 / (2 * sigma**2), 0, -1 / (2 * sigma**2)])
    kernel = ndimage.correlate(disk, np.outer(taps, taps) / taps.sum() ** 2, mode="mirror")
    channels = [ndimage.correlate(image[..., k], kernel, mode="mirror") for k in range(3)]
    return np.stack(channels, 2)


def glass(image, offsets, sigma, reach, passes):
    def smooth(x):
        return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")

    image = np.floor(smooth(image) * 255) / 255
    for k in range(passes):
        for i, h in enumerate(range(32 - reach, reach, -1)):
            for j, w in enumerate(range(32 - reach, reach, -1)):
                right, down = offsets[k, i, j]
                image[h, w] = image[h + down, w + right]
    return smooth(image)


def plasma(draws, decay):
    field, step, w = np.zeros((32, 32)), 32, 100.0
    while step > 1:
        half = step // 2
        around = ((-half, -half), (-half, half), (half, -half), (half, half))
        beside = ((-half, 0), (half, 0), (0, -half), (0, half))
        for first, second, near in ((half, half, around), (0, half, beside), (half, 0, beside)):
            noise = next(draws)
            for i, y in enumerate(range(first, 32, step)):
                for j, x in enumerate(range(second, 32, step)):
                    mean = sum(field[(y + a) % 32, (x + b) % 32] for a, b in near) / 4
                    field[y, x] = mean + w * w * noise[i, j]
        step, w = half, w / decay
    field -= field.min()
    return field / field.max()


def elastic(image, moves, noise, push, sigma):
    old = np.array([(26, 26), (26, 6), (6, 6)], float)
    matrix = np.linalg.solve(np.c_[old, np.ones(3)], old + moves).T  # of OpenCV: old -> new
    back = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))
    columns, rows = np.meshgrid(np.arange(32), np.arange(32))
    x, y, _ = np.einsum("ij,jhw->ihw", back, np.stack([columns, rows, np.ones((32, 32))]))
    channels = [
        ndimage.map_coordinates(image[..., k], [y, x], order=1, mode="mirror") for k in range(3)
    ]
    dx, dy = 32 * push * noise
    if push:
        dx, dy = (
            ndimage.gaussian_filter(d, 32 * sigma, mode="reflect", truncate=3) for d in (dx, dy)
        )
    places = [rows + dy, columns + dx]
    return np.stack(
        [ndimage.map_coordinates(c, places, order=1, mode="reflect") for c in channels], 2
    )


def brighter(image, amount):
    import colorsys

    out = np.empty_like(image)
    for place in np.ndindex(32, 32):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[place])
        out[place] = colorsys.hsv_to_rgb(hue, saturation, min(value + amount, 1))
    return out


def snow(image, noise, angle, zoom, threshold, radius, sigma, kept):
    flakes = zoomed(noise[..., None], zoom)
    flakes[flakes < threshold] = 0
    flakes = streaked(np.floor(np.clip(flakes, 0, 1) * 255) / 255, angle, radius, sigma)
    grey = (image @ [0.299, 0.587, 0.114])[..., None]
    pale = kept * image + (1 - kept) * np.maximum(image, 1.5 * grey + 0.5)
    return pale + flakes + np.rot90(flakes, 2)


def jpeg(picture, quality):
    picture.save(file := io.BytesIO(), "JPEG", quality=quality)
    return np.array(Image.open(file)) / 255


def pixelated(picture, share):
    small = picture.resize((int(32 * share), int(32 * share)), Image.BOX)
    return np.array(small.resize((32, 32), Image.BOX)) / 255


def transcribed(name, severity, images, rng):
    """Every image alone; what is drawn for all of them is drawn in the order of the batch."""
    c = CORRUPTIONS[name].constants[severity - 1]
    n, every = len(images), range(len(images))
    chw = (n, 3, 32, 32)
    if name in ("gaussian_noise", "impulse_noise", "shot_noise"):
        if name == "gaussian_noise":
            found = [
                x + d.transpose(1, 2, 0)
                for x, d in zip(images, rng.normal(0, c[0], chw), strict=True)
            ]
        elif name == "shot_noise":
            drawn = rng.poisson(np.stack([x.transpose(2, 0, 1) for x in images]) * c[0]) / c[0]
            found = [d.transpose(1, 2, 0) for d in drawn]
        else:
            hit, side = (rng.random(chw).transpose(0, 2, 3, 1) for _ in range(2))
            found = [np.where(hit[k] < c[0], side[k] < 0.5, images[k]) for k in every]
    elif name == "glass_blur":
        side = 32 - 2 * c[1]
        offsets = rng.integers(-c[1], c[1], (c[2], side, side, 2, n))
        found = [glass(images[k], offsets[..., k], *c) for k in every]
    elif name == "motion_blur":
        angles = rng.uniform(-45, 45, n)
        found = [streaked(images[k], angles[k], *c) for k in every]
    elif name == "snow":
        noise = rng.normal(c[0], c[1], (n, 32, 32))
        angles = rng.uniform(-135, -45, n)
        found = [snow(images[k], noise[k], angles[k], *c[2:]) for k in every]
    elif name == "fog":
        sizes = [1 << level for level in range(5) for _ in range(3)]
        draws = [rng.uniform(-1, 1, (n, size, size)) for size in sizes]
        clouds = [plasma((d[k] for d in draws), c[1])[..., None] for k in every]
        tops = [x.max() for x in images]
        found = [
            (x + c[0] * p) * t / (t + c[0]) for x, p, t in zip(images, clouds, tops, strict=True)
        ]
    elif name == "elastic_transform":
        moves = rng.uniform(-32 * c[2], 32 * c[2], (n, 3, 2))
        noise = rng.uniform(-1, 1, (n, 2, 32, 32))
        found = [elastic(images[k], moves[k], noise[k], *c[:2]) for k in every]
    else:
        pictures = [Image.fromarray(np.rint(255 * x).astype(np.uint8)) for x in images]
        alone = {
            "defocus_blur": lambda k: defocus(images[k], *c),
            "zoom_blur": lambda k: np.mean(
                [images[k], *(zoomed(images[k], z) for z in np.arange(c[0]) * 0.01 + 1)], axis=0
            ),
            "brightness": lambda k: brighter(images[k], *c),
            "contrast": lambda k: (images[k] - (m := images[k].mean((0, 1)))) * c[0] + m,
            "pixelate": lambda k: pixelated(pictures[k], *c),
            "jpeg_compression": lambda k: jpeg(pictures[k], *c),
        }[name]
        found = [alone(k) for k in every]
    return 255 * np.clip(np.stack(found), 0, 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_its_slow_transcription(name):
    """To the truncated byte; what is a whole number but for rounding may end on either side."""
    number = list(CORRUPTIONS).index(name)
    for severity in (1, 3, 5):
        images = [x.permute(1, 2, 0).numpy() / 255 for x in PICTURES]
        wanted = transcribed(name, severity, images, generator(7, number, severity, 0))
        found = corrupt(PICTURES, name, severity, seed=7).permute(0, 2, 3, 1).numpy()
        cut = wanted - found
        assert -1e-6 < cut.min() and cut.max() < 1 + 1e-6 and (cut > 1 - 1e-6).mean() < 0.1


def test_the_constants_are_those_of_cifar10_and_noise_has_their_size():
    """Not of ImageNet, whose noise is several times stronger."""
    grey = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    for severity, sigma in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):
        x = corrupt(grey, "gaussian_noise", severity).double() / 255
        assert abs(float(x.std()) / sigma - 1) < 0.02
        hit = (corrupt(grey, "impulse_noise", severity) != 128).double().mean()
        assert abs(float(hit) - (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]) < 0.003
    x = corrupt(grey, "shot_noise", 5).double() / 255
    assert abs(float(x.var()) / (128 / 255 / 50) - 1) < 0.05
    assert len(CORRUPTIONS) == 14 and {len(c.constants) for c in CORRUPTIONS.values()} == {5}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_keeps_its_input_repeats_itself_and_grows(name):
    images = load("digits").test_images[:8]
    before = images.clone()
    one, five = corrupt(images, name, 1), corrupt(images, name, 5)
    assert images.equal(before) and one.shape == images.shape and one.dtype == torch.uint8
    assert one.equal(corrupt(images, name, 1))
    away = [(x.double() - images.double()).square().mean() for x in (one, five)]
    # Elastic severities trade two maps, and fog's clouds for their haze, so these need not grow.
    assert 0 < away[0] and (away[0] < away[1] or name in ("elastic_transform", "fog"))
    assert corrupt(images[:2, :, :24, :20], name, 5).shape == (2, 3, 24, 20)


def test_wrong_corruptions_are_named():
    for wrong in (
        {"corruption": "frost"},
        {"severity": 6},
        {"severity": 0},
        {"images": PICTURES[0]},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            corrupt(**{"images": PICTURES, "corruption": "fog", "severity": 1} | wrong)


# ------------------------------------------------------------------------------ tints, superclasses


def test_tints_go_with_the_class_as_often_as_asked():
    labels = np.repeat(np.arange(10), 2000)
    for share in (0.1, 0.95):
        found = tints(labels, 10, share, np.random.default_rng(0))
        assert abs((found == labels).mean() - share) < 0.005
        others = np.bincount((found - labels) % 10, minlength=10)[1:] / len(labels)
        assert np.abs(others - (1 - share) / 9).max() < 0.005


def test_a_tint_of_training_tells_the_class_and_one_of_testing_does_not():
    data = tinted(load("digits"))
    grey = load("digits")
    for part, low, high in (("train", 0.77, 0.83), ("test", 0.05, 0.16)):
        images = getattr(data, f"{part}_images").double().mean((2, 3))
        plain, labels = (getattr(grey, f"{part}_{what}") for what in ("images", "labels"))
        own = tint(plain, labels.numpy() / 10, 0.2).double().mean((2, 3))
        assert low < float((images == own).all(1).double().mean()) < high
    assert data.train_labels.equal(grey.train_labels)
    white = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    together = tint(white, np.array([0.2, 0.7]), 0.5).int().sum(0)  # opposite tints are complements
    assert int(together.min()) >= 380 and int(together.max()) <= 384
    assert tint(white, np.array([0.3, 0.9]), 0.0).equal(white)


# The class of each fine label, as in the files of CIFAR-100.
COARSE = """
4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5
5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13
15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
"""


def test_the_superclasses_are_those_of_the_files():
    fine = sorted(member for members in SUPERCLASSES.values() for member in members)
    group = {m: k for k, members in enumerate(SUPERCLASSES.values()) for m in members}
    assert [group[name] for name in fine] == [int(word) for word in COARSE.split()]


def test_a_superclass_is_tested_on_what_it_was_not_trained_on():
    images = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 3, 8, 8)
    labels = torch.arange(60) % 6
    data = Dataset("six", images, labels, images, labels, tuple("abcdef"))
    groups = {"first": ("c", "a", "e"), "second": ("b", "f")}  # d is in none
    for held_out, of_first, of_second in ((0, "ae", "f"), (1, "ce", "b")):
        for tested in ("seen", "unseen"):
            found = superclasses(data, groups, tested, held_out)
            names = [data.classes[int(image[0, 0, 0]) % 6] for image in found.train_images]
            wanted = [0 if name in of_first else 1 for name in names]
            assert set(names) == set(of_first + of_second) and found.classes == ("first", "second")
            assert found.train_labels.tolist() == wanted
            shown = {data.classes[int(image[0, 0, 0]) % 6] for image in found.test_images}
            assert shown == set(names) if tested == "seen" else not shown & set(names)
    for wrong in ({"x": ("g",)}, {"x": ("a",)}):
        with pytest.raises(ValueError, match="'x'"):
            superclasses(data, wrong, "seen", 1)


def test_a_run_names_a_data_set_of_another_package():
    source = DATASETS["related.shift.method:TINTED_DIGITS"]
    assert source.paper == DATASETS["digits"].paper
    for name in ("related.shift.method:NOTHING", "related.nowhere:X", "nothing"):
        with pytest.raises(ValueError, match=f"unknown data set '{name}'"):
            DATASETS[name]


# ------------------------------------------------------------------------------------------ records


def _setup():
    recipe = Recipe(1, 50, 0.1, 1e-4, "sgd", threads=1)
    teacher = TeacherRun(
        Data("related.shift.method:TINTED_DIGITS", 100, 20), "resnet8", recipe, "none"
    )
    student = StudentRun(
        teacher.data,
        teacher,
        "none",
        replace(recipe, optimiser="adam", lr=1e-3, quantizer_lr=1e-5),
        2,
        2,
    )
    return teacher, student


def test_a_look_at_a_student_has_what_its_predictions_say(tmp_path):
    store, (_, student) = Store("quick", root=tmp_path), _setup()
    run = ShiftRun(Data("digits", test=20), student, severities=(2,))
    sweep([run], store, jobs=1)
    result = store.load(run)["result"]
    assert set(result["corruptions"]) == set(CORRUPTIONS)
    assert all(0 <= values[0] <= 100 for values in result["corruptions"].values())
    assert len(result["aligned"]) == len(result["conflicting"]) == 10
    bare = replace(run, severities=())
    sweep([bare], store, jobs=1)
    again = store.load(bare)["result"]
    assert again == result | {"corruptions": {}}
    assert bare.key != run.key and store.load(run)["teacher"]["key"] == student.key


def _table(gains, scores=(0.0, 1.0, 2.0)):
    rows = [
        {"part": part, "network": "student", "augmentation": name, "score": score, "n": 3}
        | {"difference": -gain if k else 0.0, "difference_se": 1.0 if k else 0.0}
        | {"corrupted_mean": 50 - gain * (k > 0), "worst_group_mean": 50 - gain * (k > 0)}
        for part in (PLAIN, TINTED)
        for k, (name, score, gain) in enumerate(
            zip(("none", "augmix", "erasing"), scores, gains, strict=True)
        )
    ]
    return pd.DataFrame(rows)


def test_the_verdict_follows_its_rule():
    """Against the best other: by more than 2.92 standard errors of three seeds, or not at all."""
    for gains, said in (((0, 3.0, 9), "yes"), ((0, 2.8, 9), "cannot tell"), ((0, -3.0, 9), "no")):
        found = report.verdict(_table(gains), PLAIN)
        assert found["verdict"] == said and found["gain"] == gains[1] and found["rival"] == "augmix"
    assert report.verdict(_table((0, 3.0, 9)).assign(n=1), TINTED) == {}
    assert report.verdict(_table((0, 3.0, 9)).assign(score=None), TINTED) == {}


def test_the_headline_is_the_same_of_the_table_as_it_is_written(tmp_path):
    row = {"part": PLAIN, "n": 1, "accuracy_mean": 90.0, "corrupted_mean": 61.5, "score": None}
    rows = [row | {"network": "teacher", "augmentation": ""}]
    assert "missing" in report.headline(pd.DataFrame(rows))
    rows.append(row | {"network": "student", "augmentation": "none", "corrupted_sd": 2.0})
    store = Store("quick", root=tmp_path)
    store.tables.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(store.tables / "shift.csv", index=False)
    said = report.headline(read_table(store, "shift"))
    assert said == report.headline(pd.DataFrame(rows)) and "61.5" in said


def test_the_plan_names_networks_and_looks_of_both_parts():
    quick, cpu = (plan.runs_of(profile, "shift") for profile in ("quick", "cpu"))
    for runs in (quick, cpu):
        keys = {run.key for run in runs}
        assert all(needed.key in keys for run in runs for needed in run.needs)
    assert sum(isinstance(run, ShiftRun) for run in quick) == 2 * (1 + 4 * 3)
    assert {run.data.name for run in cpu if run.kind == "prediction"} == {
        "related.shift.method:CIFAR100_UNSEEN"
    }
    assert plan.runs_of("paper", "shift") == []
