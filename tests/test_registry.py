"""A loss, a quantizer, a network, an augmentation and a data set from a file outside of the
package: one entry each.
"""

import importlib
import sys

import pytest
import torch

from paperlib.augment import POLICIES
from paperlib.basics.recipe import Recipe
from paperlib.basics.registry import import_all
from paperlib.catalogue import methods
from paperlib.data import DATASETS, load
from paperlib.losses import OBJECTIVES, objective
from paperlib.models import MODELS, build
from paperlib.quantizers import METHODS, quantize
from paperlib.scoring import rank
from paperlib.training import Task, fit

MODULE = """
import torch
from torch import nn

from paperlib.augment import POLICIES, Policy
from paperlib.data import DATASETS, Dataset, Source
from paperlib.losses import OBJECTIVES, Entry
from paperlib.models import MODELS, Classifier, Network
from paperlib.quantizers import METHODS, Method, Quantizer, straight_through


def cosine(fs, ft, power=1.0):
    return (1 - torch.cosine_similarity(fs, ft)).pow(power).mean()


class Sign(Quantizer):
    def __init__(self, bits, threshold=0.0):
        super().__init__()
        self.threshold = threshold

    def codes(self, x):
        scale = x.detach().abs().mean()
        kept = x.detach().abs() >= self.threshold
        return straight_through(x, x.detach().sign() * kept, scale), scale


class Small(Classifier):
    full_precision = ("stem", "head")

    def __init__(self, classes):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 8, 3, 2)
        self.head = nn.Linear(8, classes)

    def features(self, images):
        vector = self.body(self.stem(images).relu()).relu().mean((2, 3))
        return self.head(vector), {"f0": vector}


def noise(root, download):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=g).byte()
    labels = torch.arange(40) % 4
    return Dataset("own_noise", images[:32], labels[:32], images[32:], labels[32:], tuple("abcd"))


DATASETS["own_noise"] = Source(noise, "Own, 2026")
MODELS["own_small"] = Network(Small, "Own, 2026")
POLICIES["own_negative"] = Policy(lambda rng, n, height, width: (), lambda images: 255 - images)
METHODS["own_sign"] = Method(Sign, METHODS["lsq"].activation, "Own, 2026", "test_signs")
OBJECTIVES["own_cosine"] = Entry(
    cosine, "feature", "Own, 2027", {"beta": 5, "layers": ("vector",)}, proof="test_cosine"
)
"""
REGISTRIES = {
    "own_noise": DATASETS,
    "own_small": MODELS,
    "own_negative": POLICIES,
    "own_sign": METHODS,
    "own_cosine": OBJECTIVES,
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("my_methods")
    yield module
    del sys.modules["my_methods"]
    for name, registry in REGISTRIES.items():
        del registry[name]


def test_what_is_registered_outside_works_by_its_name(mine):
    data, teacher = load("own_noise"), build("own_small", 4)
    table = rank(
        teacher, data, ["none", "own_negative", "own_negative+cutmix"], batch=16, stddev_group=16
    )
    assert set(table["augmentation"]) == {"none", "own_negative", "own_negative+cutmix"}
    own = objective("own_cosine", power=2.0, alpha=1)
    assert (own.beta, own.feature_loss, own.options) == (5, "own_cosine", (("power", 2.0),))
    student = quantize(teacher, "own_sign", 1, 2, threshold=0.01)
    before = student.body.weight.detach().clone()
    recipe = Recipe(1, 32, 1e-2, 0.0, quantizer_lr=1e-3)  # 32 images: one step
    curve = fit(student, Task(data, "own_negative", own, recipe, 0, teacher))
    assert torch.isfinite(torch.tensor(curve[0]["loss"]))
    assert not torch.equal(before, student.body.weight)
    codes = student.body.weight_quantizer.codes(student.body.weight)[0]
    assert set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_the_catalogue_lists_it(mine):
    listed = methods().splitlines()
    (quantizer,) = (line for line in listed if line.startswith("| `own_sign` | Own, 2026 |"))
    assert "threshold = 0.0" in quantizer and "`my_methods.py`" in quantizer
    (loss,) = (line for line in listed if line.startswith("| `own_cosine` | Own, 2027 |"))
    for fact in ("feature, offline", "CE + 5 L(vector)", "power = 1.0", "`test_cosine`"):
        assert fact in loss


def test_a_name_stands_for_one_thing(mine):
    for name, registry in REGISTRIES.items():
        with pytest.raises(ValueError, match=f"{name!r} is registered already"):
            registry[name] = registry[name]
    with pytest.raises(ValueError, match="unknown model 'smal'; known: .*own_small"):
        build("smal", 4)


def test_nothing_is_left_of_it():
    assert not any(name in registry for name, registry in REGISTRIES.items())


def test_a_new_file_of_a_package_is_found(tmp_path, monkeypatch):
    folder = tmp_path / "my_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("found = []\n")
    (folder / "new.py").write_text("from my_package import found\nfound.append(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module("my_package")
    import_all(package.__name__, package.__path__)
    assert package.found == [1]
    del sys.modules["my_package"], sys.modules["my_package.new"]
