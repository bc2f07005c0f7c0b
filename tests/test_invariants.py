"""What must survive every rearrangement of the code: the keys of committed records, and the bits of
trained students.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from paperlib.basics.recipe import Recipe
from paperlib.data import load, subset
from paperlib.losses import OBJECTIVES, objective
from paperlib.models import build
from paperlib.quantizers import METHODS, quantize
from paperlib.runs.execution import environment
from paperlib.study import plan
from paperlib.training import Task, fit

# One of each kind of run, by what its table calls it. A record is found by its key: a change here
# loses records.
KEYS = {
    "teacher": "7440c26af02ce84d",
    "score": "f48d1bab310ed3ed",
    "budget": "0541c54b19ada65a",
    "ablation": "06da1791c10ca40f",
    "student": "b2454f2c226fa741",
    "tour": "4d9aa23c1b91a08c",
    "held_out": "617e709cc87451bf",
    "walk": "9a3c4f88e7317961",
}
OLD = {"teacher": "44593fc8f5362ff2", "score": "68eebd22e72eb1e7", "student": "a95e99a3031968a3"}


def test_keys_of_committed_records():
    first, regime = plan.setups("cpu")[0], plan.regimes("cpu")[0]
    found = {
        "teacher": regime.teacher,
        "score": regime.score,
        "budget": plan.races("cpu")[0],
        "ablation": plan.temperatures(regime),
        "student": regime.students[0],
        "tour": plan.tour("cpu"),
        "held_out": plan.held_out(regime),
        "walk": plan.walks("cpu")[0],
    }
    assert {name: run.key for name, run in found.items()} == KEYS
    assert {run.kind for run in found.values()} == set(KEYS)
    old = {"teacher": first.teacher, "score": first.score, "student": first.students[0]}
    assert {name: run.key for name, run in old.items()} == OLD


GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
SHORT = {"fsp": {"init_epochs": 1}, "fsp_active": {"init_epochs": 1}, "ft": {"init_epochs": 1}}


@pytest.fixture(scope="module")
def small():
    return subset(load("digits"), train=64, test=50)


def test_every_method_has_its_golden_student():
    """Quantizers in both families of networks; losses in one, since they see features alone."""
    expected = {f"{net} quantizer {name}" for net in ("resnet8", "vgg8") for name in METHODS}
    assert expected | {f"resnet8 loss {name}" for name in OBJECTIVES} == set(GOLDEN["students"])


@pytest.mark.parametrize("name", GOLDEN["students"])
def test_two_epochs_end_with_the_same_bits(name, small, one_thread):
    """As commit 514e5a0 trained them, or a later method where its own entry says, on the same
    processor and the same torch; elsewhere the losses are near.
    """
    network, kind, method = name.split(" ")
    quantizer, loss = (method, "kd") if kind == "quantizer" else ("ewgs", method)
    teacher = build(network, 10, 0)
    student = quantize(teacher, quantizer, 2, 2)
    recipe = Recipe(2, 32, 1e-3, 1e-4, quantizer_lr=1e-5)
    task = Task(
        small, "randaugment+cutmix", objective(loss, **SHORT.get(loss, {})), recipe, 0, teacher
    )
    curve = fit(student, task)
    found = hashlib.sha256()
    for key, tensor in sorted(student.state_dict().items()):
        # When this was made, whether a layer is ready was a bool, and its grid was not there.
        if not key.endswith(("_extra_state", "grid")):
            found.update(key.encode() + tensor.contiguous().numpy().tobytes())
    golden = GOLDEN["students"][name]
    assert [row["loss"] for row in curve] == pytest.approx(golden["losses"], rel=0.05)
    where = environment("cpu")
    here = {"cpu": torch.backends.cpu.get_cpu_capability()}
    here |= {name: where[name] for name in ("torch", "device")}
    if golden.get("where", GOLDEN["where"]) == here:
        assert [row["loss"] for row in curve] == golden["losses"] and found.hexdigest() == golden[
            "sha256"
        ]
