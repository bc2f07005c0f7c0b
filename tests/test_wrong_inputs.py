"""Every public function says what is wrong with its arguments: no silence, no error of another
library's own.

`CALLS` holds one right call of each function. Each argument is replaced by everything in
`wrong_values` of its kind, one at a time. The answer must be a ValueError or TypeError that this
package raised itself. What is right all the same stands in `FINE`, with its reason.
"""

import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch

import paperlib
from paperlib import augment, data, losses, models, quantizers, scoring, training
from paperlib.basics.recipe import Recipe
from paperlib.data import Dataset, balanced_indices, halves, normalise, subset, validation_split
from paperlib.models import build
from paperlib.study.config import Data, ScoreRun, StudentRun, TeacherRun

N, C = 12, 3
g = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (N, 3, 32, 32), generator=g, dtype=torch.uint8)
LABELS = torch.arange(N) % C
LOGITS, OTHER = torch.randn(N, C, generator=g), torch.randn(N, C, generator=g)
PROBABILITIES = LOGITS.softmax(1)
MAPS, WIDER = torch.rand(N, 4, 8, 8, generator=g), torch.rand(N, 6, 8, 8, generator=g)
VECTORS = torch.rand(N, 5, generator=g)
WEIGHT, UNIT = torch.randn(6, 4, generator=g), torch.rand(6, 4, generator=g)
DATA = Dataset("mine", IMAGES, LABELS, IMAGES[:6], LABELS[:6], ("a", "b", "c"))
RECIPE = Recipe(1, 6, 0.1, 1e-4, "sgd")
TEACHER = TeacherRun(Data("digits", train=60, test=30), "resnet8", RECIPE)
NORMALISED = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def net() -> torch.nn.Module:
    return build("resnet8", C)


def student() -> torch.nn.Module:
    return quantizers.quantize(net(), "lsq", 2, 2)


# A right call of each function: its keyword arguments are tried, `fixed` are not.
CALLS: dict[str, tuple[Callable, dict[str, Any]]] = {
    "rank": (
        scoring.rank,
        {
            "teacher": net,
            "data": (IMAGES, LABELS),
            "augmentations": ("none", "erasing"),
            **NORMALISED,
            "padding": 4,
            "seed": 0,
            "batch": 6,
            "cmi_weight": 1.0,
            "precision": "float32",
            "stddev_group": 4,
            "replicates": 2,
        },
    ),
    "rank_within": (
        scoring.rank_within,
        {
            "teacher": net,
            "data": (IMAGES.repeat(2, 1, 1, 1), LABELS.repeat(2)),
            "augmentations": ("none", "erasing"),
            **NORMALISED,
            "budget": 1.0,
            "top": 1,
            "confidence": 0.9,
            "seed": 0,
            "batch": 6,
            "cmi_weight": 1.0,
        },
    ),
    "score": (scoring.score, {"logits": LOGITS, "targets": LABELS, "cmi_weight": 1.0}),
    "cmi": (scoring.cmi, {"logits": LOGITS, "targets": LABELS}),
    "class_centroids": (
        scoring.class_centroids,
        {"probabilities": PROBABILITIES, "targets": LABELS},
    ),
    "centroid_divergence": (scoring.centroid_divergence, {"centroids": PROBABILITIES[:C]}),
    "teacher_stddev": (
        scoring.teacher_stddev,
        {"probabilities": PROBABILITIES, "group_sizes": (6, 6)},
    ),
    "interval": (scoring.interval, {"estimate": 0.5, "replicates": np.array([0.4, 0.6])}),
    "calibrating_temperature": (
        scoring.calibrating_temperature,
        {"logits": LOGITS, "labels": LABELS},
    ),
    "quantize": (
        quantizers.quantize,
        {
            "model": net,
            "method": "ewgs",
            "weight_bits": 2,
            "activation_bits": 2,
            "keep": ("conv",),
            "kept_bits": 8,
            "delta": 0.0,
        },
    ),
    "initialise": (quantizers.initialise, {"student": student, "images": torch.rand(4, 3, 32, 32)}),
    "describe": (quantizers.describe, {"student": student, "images": torch.rand(4, 3, 32, 32)}),
    "ewgs_round": (quantizers.ewgs_round, {"x": UNIT, "levels": 4, "delta": 0.1}),
    "ewgs_weight": (
        quantizers.ewgs_weight,
        {"w": WEIGHT, "lower": -1.0, "upper": 1.0, "levels": 4, "delta": 0.1},
    ),
    "ewgs_activation": (
        quantizers.ewgs_activation,
        {"x": UNIT, "lower": 0.0, "upper": 1.0, "levels": 4, "delta": 0.1},
    ),
    "dorefa_weight": (quantizers.dorefa_weight, {"w": WEIGHT, "bits": 2}),
    "dorefa_activation": (quantizers.dorefa_activation, {"x": UNIT, "bits": 2}),
    "pact_activation": (quantizers.pact_activation, {"x": UNIT, "alpha": 1.0, "bits": 2}),
    "lsq": (quantizers.lsq, {"x": WEIGHT, "step": 0.1, "qmin": -2, "qmax": 1, "grad_scale": 1.0}),
    "lsq_plus": (
        quantizers.lsq_plus,
        {"x": WEIGHT, "step": 0.1, "offset": 0.0, "qmin": 0, "qmax": 3, "grad_scale": 1.0},
    ),
    "fake_quantize": (
        quantizers.fake_quantize,
        {"x": WEIGHT, "scale": 0.1, "qmin": -2, "qmax": 1, "grad_scale": 1.0},
    ),
    "ternary_weight": (quantizers.ternary_weight, {"w": WEIGHT}),
    "kd": (losses.kd, {"student_logits": LOGITS, "teacher_logits": OTHER, "temperature": 4.0}),
    "dkd": (
        losses.dkd,
        {
            "student_logits": LOGITS,
            "teacher_logits": OTHER,
            "labels": LABELS,
            "alpha": 1.0,
            "beta": 8.0,
            "temperature": 4.0,
        },
    ),
    "dist": (
        losses.dist,
        {
            "student_logits": LOGITS,
            "teacher_logits": OTHER,
            "inter": 1.0,
            "intra": 1.0,
            "temperature": 1.0,
        },
    ),
    "standardise": (losses.standardise, {"logits": LOGITS}),
    "cross_entropy": (
        losses.cross_entropy,
        {"logits": LOGITS, "targets": LABELS, "smoothing": 0.1},
    ),
    "self_labels": (
        losses.self_labels,
        {"features": VECTORS, "targets": LABELS, "k": 2, "classes": C},
    ),
    "osakd": (losses.osakd, {"student_logits": LOGITS, "targets": LABELS, "k": 2}),
    "attention": (losses.attention, {"fs": MAPS, "ft": WIDER}),
    "nst": (losses.nst, {"fs": MAPS, "ft": WIDER}),
    "similarity": (losses.similarity, {"fs": MAPS, "ft": WIDER}),
    "hint": (losses.hint, {"fs": MAPS, "ft": MAPS}),
    "correlation": (losses.correlation, {"fs": VECTORS, "ft": VECTORS}),
    "pkt": (losses.pkt, {"fs": VECTORS, "ft": VECTORS}),
    "rkd": (
        losses.rkd,
        {"fs": VECTORS, "ft": VECTORS, "distance_weight": 25.0, "angle_weight": 50.0},
    ),
    "factor": (losses.factor, {"factor_s": MAPS, "factor_t": MAPS, "p1": 2, "p2": 1}),
    "fsp": (losses.fsp, {"fs_pair": (MAPS, WIDER), "ft_pair": (MAPS, WIDER)}),
    "kdsvd": (losses.kdsvd, {"fs": (MAPS, MAPS), "ft": (MAPS, MAPS), "k": 1}),
    "objective": (
        losses.objective,
        {"name": "at", "beta": 5.0, "temperature": 4.0, "layers": ("f1",)},
    ),
    "apply_op": (
        augment.apply_op,
        {"images": IMAGES, "op": "ShearX", "magnitudes": torch.zeros(N)},
    ),
    "apply_chains": (
        augment.apply_chains,
        {"images": IMAGES, "ops": np.zeros((N, 1), dtype=np.int64), "magnitudes": np.zeros((N, 1))},
    ),
    "augment": (
        augment.augment,
        {
            "images": IMAGES,
            "labels": LABELS,
            "augmentation": "erasing+cutmix",
            "rng": lambda: augment.generator(0, 0),
            "classes": C,
            "padding": 4,
            "size": 32,
        },
    ),
    "build": (build, {"name": "resnet8", "classes": C, "seed": 0}),
    "Dataset": (
        Dataset,
        {
            "name": "mine",
            "train_images": IMAGES,
            "train_labels": LABELS,
            "test_images": IMAGES,
            "test_labels": LABELS,
            "classes": ("a", "b", "c"),
            **NORMALISED,
        },
    ),
    "subset": (subset, {"data": DATA, "train": 6, "test": 3, "seed": 0}),
    "validation_split": (validation_split, {"data": DATA, "images": 3, "seed": 0}),
    "balanced_indices": (balanced_indices, {"labels": LABELS, "count": 6, "seed": 0}),
    "halves": (halves, {"labels": LABELS}),
    "gather": (data.gather, {"data": (IMAGES, LABELS)}),
    "dataset_of": (data.dataset_of, {"train": (IMAGES, LABELS), "test": (IMAGES, LABELS)}),
    "fit": (
        training.fit,
        {
            "model": net,
            "task": lambda: training.Task(DATA, "none", losses.objective("ce"), RECIPE, seed=0),
        },
    ),
    "Task": (
        training.Task,
        {
            "data": DATA,
            "augmentation": "none",
            "objective": losses.objective("ce"),
            "recipe": RECIPE,
            "seed": 0,
        },
    ),
    "accuracy": (
        training.accuracy,
        {"model": net, "data": DATA, "batch": 6, "precision": "float32"},
    ),
    "Recipe": (
        Recipe,
        {
            "epochs": 2,
            "batch": 4,
            "lr": 0.1,
            "weight_decay": 1e-4,
            "optimiser": "sgd",
            "quantizer_lr": 1e-3,
            "schedule": "epoch",
            "precision": "float32",
            "threads": 1,
            "evaluate_every": 1,
        },
    ),
    "Data": (Data, {"name": "digits", "train": 60, "test": 30, "seed": 0}),
    "TeacherRun": (TeacherRun, {"data": TEACHER.data, "model": "resnet8", "recipe": RECIPE}),
    "StudentRun": (
        StudentRun,
        {
            "data": TEACHER.data,
            "teacher": TEACHER,
            "augmentation": "none",
            "recipe": replace(RECIPE, quantizer_lr=1e-3),
            "weight_bits": 2,
            "activation_bits": 2,
            "method": "ewgs",
            "loss": "kd",
            "seed": 0,
        },
    ),
    "ScoreRun": (
        ScoreRun,
        {
            "data": TEACHER.data,
            "teacher": TEACHER,
            "augmentations": ("none",),
            "batch": 10,
            "seed": 0,
            "stddev_group": 20,
            "replicates": 5,
        },
    ),
}

SIZES = [(2, 4, 8, 8)]
BOXES = np.tile([[1, 1, 5, 5]], (N, 1))
LOOK = {"teacher": net, "data": DATA, "seed": 0, "batch": 6}
CALLS |= {
    "predict": (
        scoring.predict,
        LOOK | {"augmentation": "none", "padding": 4, "draw": 0, "precision": "float32"},
    ),
    "predict_views": (
        scoring.predict_views,
        LOOK | {"augmentation": "none", "views": 4, "precision": "float32"},
    ),
    "ablate": (
        scoring.ablate,
        LOOK | {"augmentations": ("none",), "temperatures": (2.0,), "counts": (12,)},
    ),
    "bootstrap": (
        scoring.bootstrap,
        {"logits": LOGITS, "targets": LABELS, "replicates": 2, "seed": 0, "cmi_weight": 1.0},
    ),
    "evaluate": (
        scoring.evaluate,
        {"logits": LOGITS, "targets": LABELS, "cmi_weight": 1.0, "replicates": 2, "seed": 0},
    ),
    "augment_batches": (
        augment.augment_batches,
        {
            "images": IMAGES,
            "labels": LABELS,
            "augmentation": "erasing+cutmix",
            "rngs": lambda: [augment.generator(0, 0)],
            "batch": N,
            "classes": C,
            "padding": 4,
            "size": 32,
        },
    ),
    "cutmix": (
        augment.cutmix,
        {
            "images": IMAGES,
            "labels": LABELS,
            "classes": C,
            "boxes": BOXES,
            "partners": np.zeros(N, int),
        },
    ),
    "parse": (augment.parse, {"augmentation": "none"}),
    "generator": (lambda seed: augment.generator(seed, 0), {"seed": 0}),
    "normalise": (normalise, {"images": IMAGES, **NORMALISED}),
    "load": (data.load, {"name": "digits", "root": ".", "download": False}),
    "resized": (data.resized, {"data": DATA, "size": 64}),
    "choosing_images": (data.choosing_images, {"data": DATA}),
    "check_images": (data.check_images, {"images": IMAGES}),
    "check_labels": (data.check_labels, {"labels": LABELS}),
    "VID": (losses.VID, {"student": SIZES, "teacher": SIZES, "variance": 5.0}),
    "CRD": (
        losses.CRD,
        {
            "student": SIZES,
            "teacher": SIZES,
            "labels": LABELS,
            "classes": C,
            "seed": 0,
            "negatives": 2,
            "temperature": 0.1,
            "momentum": 0.5,
            "dim": 4,
        },
    ),
    "CKTF": (
        losses.CKTF,
        {
            "student": SIZES,
            "teacher": SIZES,
            "labels": LABELS,
            "classes": C,
            "theta": 0.8,
            "negatives": 2,
            "temperature": 0.1,
            "momentum": 0.5,
            "dim": 4,
        },
    ),
    "FactorTransfer": (losses.FactorTransfer, {"student": SIZES, "teacher": SIZES, "rate": 0.5}),
    "Correlation": (losses.Correlation, {"student": SIZES, "teacher": SIZES, "dim": 4}),
    "FitNet": (losses.FitNet, {"student": SIZES, "teacher": SIZES, "seed": 0}),
    "FSP": (losses.FSP, {"student": SIZES * 2, "teacher": SIZES * 2}),
    "KDSVD": (losses.KDSVD, {"student": SIZES * 2, "teacher": SIZES * 2, "k": 1}),
}
FOLDER = tempfile.TemporaryDirectory()  # removed at the end
FILE, CARD = Path(FOLDER.name, "student"), {"classes": ("a", "b", "c"), **NORMALISED}


@cache
def ready() -> torch.nn.Module:
    low = student()
    quantizers.initialise(low, torch.rand(4, 3, 32, 32))
    return low


@cache
def exported() -> Path:
    quantizers.export(ready(), FILE, torch.rand(1, 3, 32, 32))
    return FILE


@cache
def saved() -> Path:
    quantizers.save_student(student(), FILE.with_suffix(".safetensors"))
    return FILE.with_suffix(".safetensors")


CALLS |= {
    "export": (
        quantizers.export,
        {"student": ready, "path": FILE, "images": torch.rand(2, 3, 32, 32), **CARD},
    ),
    "agreement": (
        quantizers.agreement,
        {
            "student": ready,
            "path": exported,
            "images": torch.rand(N, 3, 32, 32),
            "labels": LABELS,
            "batch": 6,
        },
    ),
    "save_student": (quantizers.save_student, {"student": ready, "path": FILE, **CARD}),
    "load_student": (quantizers.load_student, {"path": saved, "factory": lambda: net}),
}
CALLS["check_labels"] = (lambda labels: data.check_labels(labels, N, C), CALLS["check_labels"][1])
NOT_CALLED = {
    **dict.fromkeys(
        ("Candidate", "candidates", "on_batch", "as_policy"), "what `rank` makes of its candidates"
    ),
    **dict.fromkeys(("LowBit", "Product", "explicit_attention"), "parts of quantized networks"),
    **dict.fromkeys(
        ("copied", "count", "ends", "unwrapped", "warn_if_mostly_float"), "steps of quantize"
    ),  # public names that are not tried, and why
    **dict.fromkeys(
        ("Objective", "Scoring"), "made by `objective`, and by `rank` from its options"
    ),
    **dict.fromkeys(("Distiller", "Layerwise", "Loss"), "bases, and made by Objective.attach"),
    **dict.fromkeys(("Classifier", "Staged", "CifarResNet", "VGG", "Network"), "made by `build`"),
    **dict.fromkeys(("Method", "Entry", "Policy", "Source"), "entries of registries, for code"),
    **dict.fromkeys(("Quantizer", "QuantizedLayer"), "bases of classes, made by `quantize`"),
    **dict.fromkeys(("Score", "Card"), "a result"),
    **dict.fromkeys(("at_once", "cutmix_draw", "to_device", "augmented"), "parts of `augment`"),
    **dict.fromkeys(("logits_of", "scoring_order"), "parts of `predict`"),
    **dict.fromkeys(
        ("in_mode", "channels_last", "learning", "fusing", "import_all"),
        "of the package's own code",
    ),
    **dict.fromkeys(("layers_to_quantize", "quantizable", "quantizer_parameters"), "of `quantize`"),
    **dict.fromkeys(("straight_through",), "for a quantizer of one's own: within a step"),
    **dict.fromkeys(("check_targets",), "tried as the targets of `score`"),
    **dict.fromkeys(("batches", "evaluated", "evaluation"), "parts of `fit`"),
    **dict.fromkeys(
        ("fit_in_turn", "fit_together", "predictions"), "arguments are those of `fit`, `accuracy`"
    ),
}


def wrong_values(value: Any) -> Iterator[tuple[str, Any]]:
    """What is wrong in place of a right value, each with a name."""
    yield "None", None
    yield "an object", object()
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield from {"1.5": 1.5, "True": True, "'2'": "2", "-3": -3, "nan": float("nan")}.items()
    elif isinstance(value, float):
        nan, inf = float("nan"), float("inf")
        yield from {"nan": nan, "inf": inf, "-inf": -inf, "'x'": "x", "True": True}.items()
    elif isinstance(value, str):
        yield from {"a number": 3, "unknown": "no such thing", "empty": ""}.items()
    elif isinstance(value, torch.Tensor):
        yield from _wrong_tensors(value)
    elif isinstance(value, np.ndarray):
        yield from {"a list": value.tolist(), "no rows": value[:0]}.items()
        yield "strings", value.astype(str)
        yield "one axis more", value[..., None]
    elif isinstance(value, tuple) and value and isinstance(value[0], str):
        yield from {"a string": "abc", "empty": (), "unknown": ("nope",), "numbers": (3,)}.items()
    elif isinstance(value, tuple) and value and isinstance(value[0], torch.Tensor):
        yield "empty", ()
        yield "one", value[:1]
        yield "a tensor", value[0]
    elif isinstance(value, tuple):
        yield from {"empty": (), "a string": "abc", "nan": (float("nan"),) * len(value)}.items()
        yield "255ths", tuple(255.0 * x for x in value)
        yield "two", value[:2] if len(value) > 2 else value[:1]
        yield "negative", tuple(-x for x in value)


def _wrong_tensors(value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    yield "a list", value.tolist()
    yield "no rows", value[:0]
    yield "one row less", value[:-1]
    yield "one dimension more", value.unsqueeze(-1)
    yield "a scalar", value.flatten()[0]
    if value.dtype == torch.uint8:
        yield "float", value.float()
        yield "two channels", value[:, :2]
    elif value.is_floating_point():
        yield "integers", value.long()
        yield "complex", value.to(torch.complex64)
        yield "nan", torch.full_like(value, float("nan"))
        yield "inf", torch.full_like(value, float("inf"))
    else:
        yield "float", value.float()
        yield "negative", -1 - value
        yield "too large", value + 10**6


# Right all the same: (function, argument, wrong value; "*" for any) -> why.
QUANTIZERS = (
    *("ewgs_round", "ewgs_weight", "ewgs_activation", "dorefa_weight", "dorefa_activation"),
    *("pact_activation", "lsq", "lsq_plus", "fake_quantize", "ternary_weight"),
)
LOSSES = (
    *("kd", "dkd", "cross_entropy", "attention", "nst", "similarity", "hint", "correlation"),
    *("pkt", "rkd", "factor", "fsp", "kdsvd", "dist", "standardise"),
    *("osakd", "self_labels"),
)
FINE: dict[tuple[str, str, str], str] = {}
ANY_SHAPE = "element by element: any shape goes"
IN_A_STEP = "within a training step nothing waits for values: NaN propagates, the loop reports it"
for name in QUANTIZERS:
    for argument in {"x", "w"} & set(CALLS[name][1]):
        for label in ("one row less", "one dimension more", "a scalar"):
            FINE[name, argument, label] = ANY_SHAPE
for name in (*QUANTIZERS, *LOSSES):
    for argument in CALLS[name][1]:
        value = CALLS[name][1][argument]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            FINE |= {(name, argument, label): IN_A_STEP for label in ("nan", "inf")}
DOCUMENTED = "None is documented"
for name, argument in (
    *(("quantize", "keep"), ("quantize", "kept_bits"), ("subset", "train"), ("subset", "test")),
    *(("augment", "size"), ("augment_batches", "size"), ("resized", "size")),
    *(("Data", "train"), ("Data", "test"), ("Recipe", "threads"), ("load", "root")),
    *(("CRD", "classes"), ("CKTF", "classes")),
    *((name, part) for name in ("export", "save_student") for part in ("classes", "mean", "std")),
    *(("agreement", "labels"), ("load_student", "factory")),
):
    FINE[name, argument, "None"] = DOCUMENTED
REGISTRIES = "the study takes no torch: `runs.names` looks names up before any work"
for name, argument in (
    *(("Data", "name"), ("TeacherRun", "model"), ("StudentRun", "augmentation")),
    *(("StudentRun", "method"), ("StudentRun", "loss"), ("ScoreRun", "augmentations")),
):
    FINE[name, argument, "unknown"] = REGISTRIES
ANY_CLASSES = "these functions do not know how many classes or images there are"
for name in ("balanced_indices", "halves"):
    FINE |= {(name, "labels", label): ANY_CLASSES for label in ("one row less", "too large")}
FINE |= {
    ("quantize", "keep", "empty"): "nothing is kept: all layers are quantized",
    ("initialise", "images", "one row less"): "a batch of any size",
    ("describe", "images", "None"): "those counts that are there",
    ("describe", "images", "one row less"): "a batch of any size",
    ("describe", "images", "one dimension more"): "only the network knows what it takes",
    ("initialise", "images", "one dimension more"): "only the network knows what it takes",
    ("export", "images", "one row less"): "a batch of any size",
    **{
        (name, "images", "one dimension more"): "only the network knows what it takes"
        for name in ("export", "agreement")
    },
    ("agreement", "labels", "too large"): ANY_CLASSES,
    ("objective", "layers", "unknown"): "names of features: `attach` asks the networks",
    ("Dataset", "name", "unknown"): "a data set of the user's has any name",
    ("load", "root", "unknown"): "any folder: digits are in the package",
    ("check_images", "images", "one row less"): "any number of images",
    ("standardise", "logits", "one row less"): "any number of images",
    ("normalise", "images", "one row less"): "any number of images",
    ("ablate", "temperatures", "empty"): "no temperature",
    ("ablate", "counts", "empty"): "no count",
    ("ablate", "temperatures", "255ths"): "a high temperature is one",
    ("ablate", "temperatures", "two"): "no temperature",
    ("ablate", "counts", "two"): "no count",
    ("load", "root", "empty"): "the folder at hand",
    **{(name, "labels", "one row less"): "any number of images" for name in ("CRD", "CKTF")},
    **{(name, "qmin", "-3"): "a grid may begin there" for name in ("lsq", "lsq_plus")},
    ("fake_quantize", "qmin", "-3"): "a grid may begin there",
}


def is_fine(name: str, argument: str, label: str) -> bool:
    keys = [(a, b, c) for a in (name, "*") for b in (argument, "*") for c in (label, "*")]
    return any(key in FINE for key in keys)


def answer(function: Callable, arguments: dict[str, Any]) -> str:
    """ "clear", "none", or what obscure error came."""
    made = {
        name: value() if callable(value) and not isinstance(value, type) else value
        for name, value in arguments.items()
    }
    try:
        function(**made)
    except (ValueError, TypeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        own = Path(paperlib.__file__).parent in raised_in.parents
        return "clear" if own else f"{type(error).__name__} of {raised_in.name}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def tried(name: str) -> Iterator[tuple[str, str, str]]:
    """Argument, wrong value, answer of everything that is tried on a function."""
    function, right = CALLS[name]
    for argument, value in right.items():
        for label, wrong in wrong_values(value):
            if not is_fine(name, argument, label):
                yield argument, label, answer(function, right | {argument: wrong})


@pytest.mark.parametrize("name", CALLS)
def test_wrong_inputs_get_a_clear_error(name):
    function, right = CALLS[name]
    assert answer(function, right) == "none", "the right call"
    bad = [f"{name}({a} = {label}): {found}" for a, label, found in tried(name) if found != "clear"]
    assert not bad, "\n".join(bad)


def test_every_public_function_is_tried_or_excused():
    face = [
        line.split()[-1]
        for line in Path(paperlib.__file__).with_name("__init__.pyi").open(encoding="utf-8")
        if " as " in line
    ]
    public = {name: getattr(paperlib, name) for name in face}
    for room in (augment, data, losses, models, quantizers, scoring, training):
        public |= {name: thing for name, thing in vars(room).items() if name[0] != "_"}
    functions = {
        name
        for name, x in public.items()
        if isinstance(x, FunctionType | type)
        and "paperlib." in x.__module__
        and ".checks" not in x.__module__
    }
    assert functions - set(CALLS) - set(NOT_CALLED) == set()
    assert not set(CALLS) & set(NOT_CALLED)


def test_every_fine_answer_is_still_tried():
    for name, argument, label in FINE:
        if "*" in (argument, label):
            continue
        assert label in dict(wrong_values(CALLS[name][1][argument])), (name, argument, label)


NAN, INF = float("nan"), float("inf")
STUDENT = StudentRun(TEACHER.data, TEACHER, "none", RECIPE, 2, 2)
SOFT = torch.tensor([[1.5, -0.5, 0.0]]).expand(N, 3)
# What was once taken in silence, or ended in an error of another library.
NAMED: dict[str, Callable] = {
    "mean on 0..255": lambda: scoring.rank(
        net(), (IMAGES, LABELS), ("none",), mean=(125,) * 3, std=(60,) * 3
    ),
    "negative std": lambda: scoring.rank(
        net(), (IMAGES, LABELS), ("none",), mean=(0.5,) * 3, std=(-0.2,) * 3
    ),
    "two-valued mean": lambda: scoring.rank(
        net(), (IMAGES, LABELS), ("none",), mean=(0.5,) * 2, std=(0.2,) * 3
    ),
    "no augmentations": lambda: scoring.rank(net(), DATA, ()),
    "batch=0": lambda: scoring.rank(net(), DATA, batch=0),
    "negative seed": lambda: scoring.rank(net(), DATA, seed=-1),
    "negative padding": lambda: scoring.rank(net(), DATA, padding=-1),
    "a label of 1e15": lambda: scoring.rank(net(), (IMAGES, LABELS + 10**15), **NORMALISED),
    "NaN weight": lambda: scoring.rank_within(net(), DATA, cmi_weight=NAN),
    "infinite weight": lambda: scoring.rank(net(), DATA, cmi_weight=INF),
    "top=1.5": lambda: scoring.rank_within(net(), DATA, top=1.5),
    "NaN images": lambda: quantizers.initialise(student(), torch.full((2, 3, 32, 32), NAN)),
    "a network without quantizers": lambda: quantizers.initialise(net(), torch.rand(2, 3, 32, 32)),
    "fewer op rows": lambda: augment.apply_chains(IMAGES, np.zeros((3, 1), int), np.zeros((3, 1))),
    "op -1": lambda: augment.apply_chains(IMAGES, np.full((N, 1), -1), np.zeros((N, 1))),
    "op 99": lambda: augment.apply_chains(IMAGES, np.full((N, 1), 99), np.zeros((N, 1))),
    "float images": lambda: augment.apply_op(IMAGES.float(), "Invert", torch.zeros(N)),
    "magnitudes as a list": lambda: augment.apply_op(IMAGES, "Invert", [0.0] * N),
    "one label": lambda: losses.dkd(LOGITS, OTHER, LABELS[:1]),
    "labels (N, 1)": lambda: losses.dkd(LOGITS, OTHER, LABELS[:, None]),
    "negative soft labels": lambda: losses.cross_entropy(LOGITS, SOFT),
    "negative soft labels, dkd": lambda: losses.dkd(LOGITS, OTHER, SOFT),
    "unnormalised probabilities": lambda: scoring.class_centroids(LOGITS, LABELS),
    "qmin > qmax": lambda: quantizers.fake_quantize(WEIGHT, 0.1, 2, -2),
    "keep=('',)": lambda: quantizers.quantize(net(), "lsq", 2, 2, keep=("",)),
    "layers='maps'": lambda: losses.objective("at", layers="maps"),
    "interval([])": lambda: scoring.interval(0.5, []),
    "an empty batch": lambda: losses.kd(LOGITS[:0], OTHER[:0]),
    "epochs=1.5": lambda: replace(RECIPE, epochs=1.5),
    "epochs=True": lambda: replace(RECIPE, epochs=True),
    "batch=2.5": lambda: replace(RECIPE, batch=2.5),
    "lr=inf": lambda: replace(RECIPE, lr=INF),
    "a NaN option": lambda: replace(STUDENT, method_options={"delta": NAN}),
    "negative bits": lambda: replace(STUDENT, weight_bits=-2),
}
for bad in (0.0, -1.0, INF, NAN):
    for make in (float, torch.tensor):
        NAMED |= {
            f"step {bad} {make.__name__}": partial(quantizers.lsq, WEIGHT, make(bad), -2, 1),
            f"alpha {bad} {make.__name__}": partial(quantizers.pact_activation, UNIT, make(bad), 2),
        }


@pytest.mark.parametrize("case", NAMED)
def test_what_was_once_silent_or_obscure_is_a_clear_error(case):
    assert answer(NAMED[case], {}) == "clear"


@pytest.mark.parametrize("per_channel", (False, True))
@pytest.mark.parametrize("method", quantizers.METHODS)
def test_a_layer_of_zeros_gives_finite_numbers(method, per_channel):
    """Also of one weight a channel, and of inputs that are all 0 or all one large number."""
    model = torch.nn.Sequential(*(torch.nn.Conv2d(2, 2, 1, groups=2) for _ in range(4)))
    torch.nn.init.zeros_(model[1].weight)
    for images in (torch.rand(4, 2, 5, 5), torch.zeros(4, 2, 5, 5), torch.full((4, 2, 5, 5), 1e4)):
        for bits in (1, 2):
            if bits < 2 and (method == "ternary" or "lsq" in method or "released" in method):
                continue
            low = quantizers.quantize(model, method, bits, bits, per_channel=per_channel, keep=())
            quantizers.initialise(low, images)
            low(images).square().sum().backward()
            assert all(torch.isfinite(p).all() for p in low.parameters())
            assert all(torch.isfinite(p.grad).all() for p in low.parameters() if p.grad is not None)
            assert torch.isfinite(low(images)).all()


def test_a_weight_that_is_nan_is_refused_by_its_layers_name():
    low = student()
    low.get_submodule(_first_low(low)).weight.data[0] = NAN
    with pytest.raises(ValueError, match=_first_low(low)):
        quantizers.initialise(low, torch.rand(4, 3, 32, 32))


def test_checks_do_not_break_a_compiled_step():
    def total(s, t, labels, fs, ft):
        logits = losses.kd(s, t) + losses.dkd(s, t, labels) + losses.cross_entropy(s, labels)
        return logits + losses.attention(fs, ft) + losses.nst(fs, ft) + losses.similarity(fs, ft)

    arguments = LOGITS, OTHER, LABELS, MAPS, WIDER
    whole = torch.compile(total, fullgraph=True, backend="eager")
    assert whole(*arguments).equal(total(*arguments))


def _first_low(low: torch.nn.Module) -> str:
    return next(n for n, m in low.named_modules() if isinstance(m, quantizers.QuantizedLayer))


if __name__ == "__main__":  # the counts, for the record
    counts: dict[str, int] = {}
    for each in CALLS:
        for argument, label, found in tried(each):
            kind = found if found in ("clear", "none") else "obscure"
            counts[kind] = counts.get(kind, 0) + 1
            if kind != "clear":
                print(f"{each}({argument} = {label}): {found[:100]}")
    print(counts)
