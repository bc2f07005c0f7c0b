"""Recipes: how weights are trained, and checks that several configurations share. No torch here."""

from dataclasses import dataclass

from .checks import check_fields, choice, count, number, require
from .checks import one_of as require_known  # noqa: F401  read from here by the study

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How weights are trained. The learning rate falls from `lr` to 0 along a cosine.

    optimiser       "sgd": momentum 0.9, not Nesterov. "adam": default betas, weight decay as L2.
                    "sgd_nesterov": the quantizers' parameters are in the same group, with its
                    weight decay.
    quantizer_lr    Learning rate of a second Adam, without weight decay, for bounds, steps and
                    output scales. For students only, and not with "sgd_nesterov".
    schedule        "epoch": one step per epoch, no warm-up. "step": one per batch, after
                    `warmup_steps` of linear warm-up.
    precision       "float32", or "bfloat16" for all convolutions and linear layers but the last.
                    Weights, statistics and losses stay in float32.
    evaluate_every  The network is tested after every so many epochs, and after each of the last
                    five.
    threads         Threads of the processor. They decide how sums are rounded. None takes what the
                    sweep gives: the result then depends on the number of cores.
    one_graph       In runs of 500 steps and more, on a processor: networks and loss are compiled
                    together, not the quantizers alone, which takes a minute. Sums are rounded
                    otherwise. Of the package's own networks only. On a GPU it is always so.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    optimiser: str = "adam"
    quantizer_lr: float = 0.0
    precision: str = "float32"
    schedule: str = "epoch"
    warmup_steps: int = 0
    evaluate_every: int = 1
    threads: int | None = None
    one_graph: bool = False

    def __post_init__(self):
        optimisers, batch = ("sgd", "sgd_nesterov", "adam"), number("[2, inf)", whole=True)
        known = {"optimiser": choice(optimisers), "schedule": choice(("epoch", "step"))}
        check_fields(self, epochs=count, batch=batch, **known)
        useful = self.schedule == "step" or not self.warmup_steps
        require(useful, f"warmup_steps = {self.warmup_steps} need schedule 'step'")
        if self.quantizer_lr and self.optimiser == "sgd_nesterov":
            raise ValueError(f"quantizer_lr = {self.quantizer_lr} has no effect with sgd_nesterov")
