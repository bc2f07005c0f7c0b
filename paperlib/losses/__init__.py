"""What a student minimises: gamma CE + alpha KL(T) + beta L_features.

The functions are the mathematics; `OBJECTIVES` names the paper's combinations of weights and layers. A new loss is one
function of two feature maps and one entry of `FEATURE_LOSSES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ..hardware import widen
from .functional import attention, cross_entropy, kd

FEATURE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"attention": attention}


@dataclass(frozen=True)
class Objective:
    """Total loss = gamma CE + alpha KL at `temperature` + beta times the sum of `feature_loss` over `layers`.

    gamma, alpha, beta  weights, at least 0. layers  names of features, "f1" and so on; "maps" stands for all stage
    outputs but f0 (f1 .. f3 of a ResNet, f1 .. f4 of a VGG).
    Raises ValueError for a negative weight, a temperature that is not positive, or an unknown feature loss.
    """

    gamma: float = 1.0
    alpha: float = 0.0
    beta: float = 0.0
    temperature: float = 4.0
    feature_loss: str = ""
    layers: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("gamma", "alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be positive, got {self.temperature}")
        if self.beta and self.feature_loss not in FEATURE_LOSSES:
            raise ValueError(f"unknown feature loss {self.feature_loss!r}; known: {', '.join(FEATURE_LOSSES)}")
        if self.beta and not self.layers:
            raise ValueError(f"beta = {self.beta} weighs a feature loss over no layers: name some, or 'maps'")

    @property
    def needs_teacher(self) -> bool:
        return self.alpha > 0 or self.beta > 0

    def __call__(
        self,
        student: tuple[Tensor, dict[str, Tensor]],
        teacher: tuple[Tensor, dict[str, Tensor]] | None,
        targets: Tensor,
    ) -> Tensor:
        """student, teacher: logits (N, C) and named features; targets as for `cross_entropy`. Returns a scalar.

        What comes in a shorter type is compared in float32.
        """
        logits, features = widen(student[0]), student[1]
        total = self.gamma * cross_entropy(logits, targets) if self.gamma else logits.new_zeros(())
        if self.alpha:
            total = total + self.alpha * kd(logits, widen(teacher[0]), self.temperature)
        if self.beta:
            for layer in self._layers(features):
                pair = widen(features[layer]), widen(teacher[1][layer])
                total = total + self.beta * FEATURE_LOSSES[self.feature_loss](*pair)
        return total

    def _layers(self, features: dict[str, Tensor]) -> list[str]:
        if self.layers == ("maps",):
            return [name for name, f in features.items() if f.ndim == 4 and name != "f0"]
        for layer in self.layers:
            if layer not in features:
                raise ValueError(f"the network has no feature {layer!r}; it has {', '.join(features)}")
        return list(self.layers)


# Weights and layers of the released scripts (PAPER 6.2, 7.2). "kd" is the combination of the 16-augmentation runs.
OBJECTIVES: dict[str, Objective] = {
    "ce": Objective(),
    "kd": Objective(gamma=1, alpha=2),
    "sqakd": Objective(gamma=0, alpha=1),
    "at": Objective(gamma=1, beta=1000, feature_loss="attention", layers=("maps",)),
}


def objective(name: str, **changes: float) -> Objective:
    """One of `OBJECTIVES`, with some of its values changed. Raises ValueError for an unknown name or option.

    >>> objective("kd", temperature=2.0).alpha
    2
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(OBJECTIVES)}")
    for option in changes:
        if option not in Objective.__dataclass_fields__:
            raise ValueError(f"a loss has no option {option!r}; known: {', '.join(Objective.__dataclass_fields__)}")
    return replace(OBJECTIVES[name], **changes)


__all__ = ["FEATURE_LOSSES", "OBJECTIVES", "Objective", "attention", "cross_entropy", "kd", "objective"]
