"""Objectives: which losses a student minimises, with which weights, between which layers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import check_fields, require, several, word
from ..models.precision import widen
from .ce import cross_entropy
from .distillers import Distiller, Layerwise
from .features import expected
from .registry import OBJECTIVES

Outputs = tuple[Tensor, dict[str, Tensor]]  # logits (N, C) and named features

# Groups of layers by name, from the features f0, f1, ... that are maps, and those that are vectors.
# Others, as a transformer's attention scores (N, h, T, T), are in no group.
LAYERS: dict[str, Callable[[list[str], list[str]], list[str]]] = {
    "maps": lambda maps, vectors: [name for name in maps if name != "f0"],
    "maps+f0": lambda maps, vectors: maps,
    "last map": lambda maps, vectors: maps[-1:],
    "vector": lambda maps, vectors: vectors[-1:],
}


def layer_names(layers: tuple[str, ...], features: Mapping[str, Tensor]) -> list[str]:
    """The features that `layers` stands for, in its order.

    layers    names of features, or of groups of f0, f1, ...: "maps" all stage outputs but f0 (f1 ..
              f3 of a ResNet, f1 .. f4 of a VGG), "maps+f0" with it, "last map", and "vector", the
              last feature without height and width.
    Raises ValueError for a name that is neither, or a group without a member.

    >>> features = {"f0": torch.zeros(1, 2, 4, 4), "f1": torch.zeros(1, 2, 2, 2),
    ...     "f2": torch.zeros(1, 2), "score1": torch.zeros(1, 2, 4, 4)}
    >>> layer_names(("maps+f0", "vector"), features)
    ['f0', 'f1', 'f2']
    """
    stages = {name: f.ndim for name, f in features.items() if re.fullmatch(r"f\d+", name)}
    maps, vectors = ([name for name, n in stages.items() if n == ndim] for ndim in (4, 2))
    alone = {name: [name] for name in features}
    groups = alone | {group: choose(maps, vectors) for group, choose in LAYERS.items()}
    for layer in layers:
        has = f"the network has no feature {layer!r}; it has {', '.join(features)}"
        require(groups.get(layer), has)
    return [name for layer in layers for name in groups[layer]]


@dataclass(frozen=True)
class Objective:
    """Total loss = gamma CE + alpha L_logits at `temperature` + beta `feature_loss` between
    `layers`.

    gamma, alpha, beta  weights, at least 0. smoothing  of hard labels, for the CE.
    logit_loss   a name in `OBJECTIVES`, of a loss of logits. feature_loss  of one of features; ""
                 for none.
    layers       as for `layer_names`; student and teacher are asked separately, so a ResNet may
                 learn from a VGG. In `training.fit` also paths of modules, as "layer1.0".
    teacher_layers  the teacher's, where it calls them otherwise; () for `layers`.
    warmup       epochs over which alpha rises linearly, from alpha / warmup in the first; 0 for
                 none.
    init_epochs  epochs of the stage before the main one, for feature losses that have one; beta may
                 then be 0.
    init_lr      its learning rate; None stands for the recipe's.
    options      (name, value) pairs, or a mapping, of options of the two losses: those of their
                 signatures.

    Raises ValueError for a negative weight, a temperature that is not positive, an unknown loss or
    option, a value that would have no effect: a feature loss that neither weighs nor trains
    beforehand, init_epochs of one that has no such stage, warmup without alpha, smoothing without
    gamma.
    """

    gamma: float = 1.0
    alpha: float = 0.0
    beta: float = 0.0
    temperature: float = 4.0
    feature_loss: str = ""
    layers: tuple[str, ...] = ()
    logit_loss: str = "kd"
    smoothing: float = 0.0
    warmup: int = 0
    init_epochs: int = 0
    init_lr: float | None = None
    options: tuple[tuple[str, Any], ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def __post_init__(self):
        # Lists and mappings, as JSON and notebooks have them, become what can be compared and
        # hashed.
        for name in ("layers", "teacher_layers"):
            several(word, 0)(name, getattr(self, name))
            object.__setattr__(self, name, tuple(getattr(self, name)))
        pairs = self.options.items() if isinstance(self.options, Mapping) else self.options
        object.__setattr__(self, "options", tuple((name, value) for name, value in pairs))
        check_fields(self)
        self._check_effects()
        known = (*self._logit_options, *self._feature_options)
        for name, _ in self.options:
            text = f"this loss has no option {name!r}; it has: {', '.join(known) or 'none'}"
            require(name in known, text)

    def _check_effects(self) -> None:
        logit, feature = self.logit_loss, self.feature_loss
        knows = OBJECTIVES[logit].knowledge, feature and OBJECTIVES[feature].knowledge
        require(knows[0] == "response", f"{logit!r} is not a loss of logits")
        require(knows[1] in ("", "feature", "relation"), f"{feature!r} is not a loss of features")
        pretrains = getattr(self._features, "pretrains", "")
        no_stage = f"{feature or 'no loss'!r} has no stage before the main one"
        for name, effect, why in (
            ("smoothing", self.gamma, "gamma is 0"),
            ("warmup", self.alpha, "alpha is 0"),
            ("beta", feature, "there is no feature loss"),
            ("teacher_layers", feature, "there is no feature loss"),
            ("init_epochs", pretrains, no_stage),
            ("feature_loss", self.beta or self.init_epochs, "beta and init_epochs are 0"),
            ("feature_loss", self.layers, "it is over no layers: name some, or 'maps'"),
        ):
            value = getattr(self, name)
            require(effect or not value, f"{name} = {value} has no effect: {why}")

    @property
    def _features(self) -> Callable | None:
        return OBJECTIVES[self.feature_loss].loss if self.feature_loss else None

    @property
    def _logit_options(self) -> dict[str, Any]:
        return OBJECTIVES[self.logit_loss].options if self.alpha else {}

    @property
    def _feature_options(self) -> dict[str, Any]:
        return OBJECTIVES[self.feature_loss].options if self.feature_loss else {}

    @property
    def _taught(self) -> bool:
        return self.alpha > 0 and OBJECTIVES[self.logit_loss].scheme != "self"

    @property
    def needs_teacher(self) -> bool:
        """Whether any stage compares with a teacher."""
        return self._taught or bool(self.feature_loss)

    @property
    def needs_teacher_each_step(self) -> bool:
        """Whether the main stage does: an objective may use the teacher before it only."""
        return self._taught or self.beta > 0

    @property
    def packable(self) -> bool:
        """Whether one attached loss may serve many students at once: it neither learns nor
        remembers, and takes soft labels.
        """
        return not isinstance(self._features, type) and not self.smoothing

    def attach(
        self,
        student_features: Mapping[str, Tensor],
        teacher_features: Mapping[str, Tensor] | None,
        labels: Tensor,
        classes: int,
        seed: int = 0,
    ) -> "Loss":
        """This objective for two networks and a training set.

        student_features, teacher_features  as the networks give them for any batch: names, shapes,
                        type and device count. The teacher's may be None where `needs_teacher` is
                        False.
        labels          (n,) int64, of the whole training set, on the features' device. classes
                        their number.
        seed            of initial weights and of the negatives that CRD draws.

        Raises ValueError for layers that a network does not have, different numbers of them, or a
        teacher that is missing.
        """
        layers, distiller = ([], []), None
        if self.feature_loss:
            missing = f"{self.feature_loss!r} compares with a teacher's features, got None"
            require(teacher_features is not None, missing)
            both = student_features, teacher_features
            asked = self.layers, self.teacher_layers or self.layers
            layers = [layer_names(*each) for each in zip(asked, both, strict=True)]
            same = len(layers[0]) == len(layers[1])
            expected(same, "as many layers of both networks", *layers)
            first = widen(student_features[layers[0][0]])
            sizes = [
                [f[name].shape for name in names] for f, names in zip(both, layers, strict=True)
            ]
            distiller = self._distiller(sizes, labels, classes, seed)
            distiller = distiller.to(first.device, first.dtype)
        return Loss(self, distiller, *layers, labels.device)

    def _distiller(
        self, sizes: list[list[torch.Size]], labels: Tensor, classes: int, seed: int
    ) -> Distiller:
        options = self._chosen(self._feature_options)
        if isinstance(self._features, type):
            return self._features(*sizes, labels, classes, seed, **options)
        return Layerwise(self._features, *sizes, **options)

    def _chosen(self, known: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in self.options if name in known}


class Loss(nn.Module):
    """An `Objective` attached to two networks and a training set, with what its feature loss learns
    and remembers.

    distiller   the feature loss, or None. Keep this module in train mode: some distillers remember
    what they saw.
    """

    def __init__(
        self,
        objective: Objective,
        distiller: Distiller | None,
        student_layers: list[str],
        teacher_layers: list[str],
        device: torch.device,
    ):
        super().__init__()
        self.objective, self.distiller = objective, distiller
        self.student_layers, self.teacher_layers = student_layers, teacher_layers
        self.logit_options = objective._chosen(objective._logit_options)
        if objective.warmup:
            # Not part of the state: it follows from the epoch.
            self.register_buffer("ramp", torch.empty((), device=device), persistent=False)
            self.set_epoch(0)

    def forward(
        self,
        student: Outputs,
        teacher: Outputs | None,
        targets: Tensor,
        indices: Tensor | None = None,
    ) -> Tensor:
        """The total loss, a scalar. What comes in a shorter type is compared in float32.

        student, teacher  logits (N, C) and named features; the teacher may be None where
                          `needs_teacher_each_step` is False.
        targets  as for `cross_entropy`. indices  (N,) int64, the images' places in the training
        set, each once.
        """
        objective, logits = self.objective, widen(student[0])
        total = logits.new_zeros(())
        if objective.gamma:
            total = objective.gamma * cross_entropy(logits, targets, objective.smoothing)
        if objective.alpha:
            loss, options = OBJECTIVES[objective.logit_loss].loss, self.logit_options
            other = teacher and widen(teacher[0])
            term = objective.alpha * loss(logits, other, targets, objective.temperature, **options)
            total = total + (term * self.ramp if objective.warmup else term)
        if objective.beta:
            pairs = self._pairs(student[1], teacher[1])
            total = total + objective.beta * self.distiller(*pairs, indices)
        return total

    def pretraining_loss(
        self, student_features: Mapping[str, Tensor] | None, teacher_features: Mapping[str, Tensor]
    ) -> Tensor:
        """What the stage before the main one minimises, a scalar without beta. Raises ValueError if
        there is none.

        student_features  may be None where the distiller learns from the teacher alone
        (`Distiller.pretrains` is "own").
        """
        name = self.objective.feature_loss or "no feature loss"
        pretrains = self.distiller is not None and self.distiller.pretrains
        require(pretrains, f"{name!r} has no stage before the main one")
        return self.distiller.pretraining_loss(*self._pairs(student_features, teacher_features))

    def _pairs(
        self, student: Mapping[str, Tensor] | None, teacher: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        fs = [] if student is None else [widen(student[name]) for name in self.student_layers]
        return fs, [widen(teacher[name]) for name in self.teacher_layers]

    def set_epoch(self, epoch: int) -> None:
        """Tell the warm-up which epoch begins, counted from 0."""
        if self.objective.warmup:
            self.ramp.fill_(min(1.0, (epoch + 1) / self.objective.warmup))

    @property
    def capturable(self) -> bool:
        """Whether a step with it can be captured in a CUDA graph."""
        return self.distiller is None or self.distiller.capturable


def objective(name: str, **changes: Any) -> Objective:
    """The objective of a loss in `OBJECTIVES`, with some of its usual values changed: fields of
    `Objective`, or options of its losses.

    Raises ValueError for an unknown name or option, and where a field would have no effect because
    the feature loss has an option of the same name, as CRD's temperature: such options go by
    `options`.

    >>> objective("kd", temperature=2.0).alpha
    2
    >>> objective("crd", negatives=64, options={"temperature": 0.07}).options
    (('temperature', 0.07), ('negatives', 64))
    """
    entry, known = OBJECTIVES[name], {field.name for field in fields(Objective)}
    values = {option: value for option, value in changes.items() if option in known}
    others = {option: value for option, value in changes.items() if option not in known}
    usual = dict(entry.defaults)
    if entry.knowledge != "none":
        usual["logit_loss" if entry.knowledge == "response" else "feature_loss"] = name
    options = dict(usual.get("options", ())) | dict(values.pop("options", ())) | others
    result = Objective(**usual | values | {"options": options})
    if "temperature" in values and not result.alpha:
        text = "temperature is that of the logits, and alpha is 0: write options={'temperature': "
        require("temperature" not in result._feature_options, text + f"{values['temperature']}}}")
    return result
