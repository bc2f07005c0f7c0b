"""The runs of KD for QAT of transformer encoders. No torch here.

A small vision transformer learns in full precision. Its students start from it, with ternary
weights and 8-bit activations, also in the two products of attention, and differ in the loss alone.
All have the KL of the logits at temperature 1, and no label loss. `ARMS` adds the squared error of
all hidden states and, on top of that, the squared error of attention scores (TernaryBERT's loss),
the KL of attention maps, the squared error of attention's outputs, or maps and outputs. All weights
are 1, as in the released code.

Question: which of these helps the low-bit transformer, and is its attention nearer to the teacher's
for it, layer by layer?

Rules of the verdicts, written before the runs.
- An arm helps (harms) if a one-sided t test of the differences of test accuracy to the logits
  alone, within seeds, says so at 5 %.
- The paper's claim: maps, outputs, and both, each in the place of the scores, beat TernaryBERT's
  loss. Each holds (is contradicted) by the same test of the differences to the arm with scores.
- Attention is nearer if the KL of the maps, mean over layers, is below that of the arm with scores
  by the same test.

The students' recipe is that of the set-up, as for ResNets. What was seen by then: four of the arms
with seed 0 on a validation split of digits, after three epochs of all images or six of 400. All had
97.5 % or more, the teacher 98.5 %, and the attention of those with hidden states was the nearer. So
`quick` has three epochs of 400 images, where there is something left to tell apart.

The last arm came after the others had been seen: with the weights of the released code the loss on
maps left them further from the teacher's than the loss on scores did. Is it the weight?
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from paperlib.basics.recipe import Recipe
from paperlib.study import plan
from paperlib.study.config import Data, Run, StudentRun, fields_of
from paperlib.study.profiles import Setup
from paperlib.study.store import Store

from ..setups import short

SMALL, LARGE = "related.vit.network:SMALL", "related.vit.network:LARGE"
LOSS, METHOD = "related.vit.method:ATTENTIVE", "related.vit.method:TERNARY"
BLOCKS = {SMALL: 4, LARGE: 9}
TERNARY_BITS, ACTIVATION_BITS = 2, 8
LOGITS, BASELINE = "logits", "states + scores"
HEAVY = "states + maps x 10"
# Arm -> the kinds of features that it compares, and options of the loss.
ARMS: dict[str, tuple[tuple[str, ...], dict]] = {
    LOGITS: ((), {}),
    "states": (("f",), {"maps": "map"}),
    BASELINE: (("f", "score"), {"maps": "score"}),
    "states + maps": (("f", "score"), {"maps": "map"}),
    "states + outputs": (("f", "out"), {"maps": "map"}),
    "states + maps + outputs": (("f", "score", "out"), {"maps": "map"}),
    HEAVY: (("f", "score"), {"maps": "map", "weight": 10.0}),
}
CLAIMED = tuple(arm for arm in ARMS if arm.startswith("states + ") and arm != BASELINE)


@dataclass(frozen=True)
class AttentiveRun(StudentRun):
    """A student of a vision transformer, and its attention beside the teacher's."""

    kind = "vit"
    compute = "related.vit.method:make_attentive"


def setup_of(profile: str) -> Setup | None:
    """The set-up of a profile: digits in `quick`, the images of set-up B in `cpu` (two hours of
    a core, estimated), both with the small network; in `paper` the large one, for a GPU, on
    CIFAR-10. None elsewhere.
    """
    if profile == "paper":
        teacher, student = (
            Recipe(epochs, 128, 1e-3, 1e-4, schedule="step", warmup_steps=1_000)
            for epochs in (100, 30)
        )
        how = {"teacher_augmentation": "trivialaugment", "method": METHOD}
        return Setup(Data("cifar10"), LARGE, TERNARY_BITS, teacher, student, (0, 1, 2), **how)
    setup = short(profile)
    if setup is None:
        return None
    epochs = 30 if profile == "quick" else setup.teacher_recipe.epochs
    warm = {"lr": 1e-3, "optimiser": "adam", "schedule": "step", "warmup_steps": 100}
    teacher = replace(setup.teacher_recipe, epochs=epochs, **warm)
    seeds = (0, 1, 2) if profile == "quick" else (0,)
    how = {"bits": TERNARY_BITS, "method": METHOD, "teacher_recipe": teacher, "seeds": seeds}
    return replace(setup, model=SMALL, **how)


def layers(model: str, kinds: Iterable[str]) -> tuple[str, ...]:
    """The names of the features of these kinds, "f", "score" and "out", of all blocks.

    >>> layers(SMALL, ("f", "out"))
    ('f0', 'f1', 'f2', 'f3', 'f4', 'out1', 'out2', 'out3', 'out4')
    """
    blocks = BLOCKS[model]
    return tuple(f"{kind}{n}" for kind in kinds for n in range(kind != "f", blocks + 1))


def students(profile: str) -> dict[str, list[AttentiveRun]]:
    """Arm -> students, a seed each."""
    setup = setup_of(profile)
    if setup is None:
        return {}
    found = {}
    for arm, (kinds, own) in ARMS.items():
        loss, options = "kd", {"gamma": 0.0, "alpha": 1.0, "temperature": 1.0}
        if kinds:
            loss, options = LOSS, {"layers": layers(setup.model, kinds)} | own
        how = {"loss": loss, "loss_options": options, "activation_bits": ACTIVATION_BITS}
        runs = [setup.student("none", seed, **how) for seed in setup.seeds]
        found[arm] = [AttentiveRun(**fields_of(run)) for run in runs]
    return found


def _runs(profile: str, store: Store | None) -> Iterable[Run]:
    every = [run for runs in students(profile).values() for run in runs]
    return (*(run.teacher for run in every[:1]), *every)


plan.TABLES["vit"] = plan.Table(_runs, "26_vit.ipynb", plan.RELATED)
