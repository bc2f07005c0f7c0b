"""How weights are trained: a typed record, and the checks that such records share. No torch
here.
"""

from dataclasses import dataclass

PRECISIONS = ("float32", "bfloat16")


def require(condition: bool, text: str) -> None:
    """Raise ValueError with this text unless the condition holds."""
    if not condition:
        raise ValueError(text)


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that is not one of `PRECISIONS`."""
    require(
        precision in PRECISIONS, f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}"
    )


@dataclass(frozen=True)
class Recipe:
    """How weights are trained: cosine from `lr` to 0.

    optimiser     "sgd" (momentum 0.9, not Nesterov), "adam" (default betas; weight decay as L2), or
                  "sgd_nesterov", which has the quantizers' parameters in the same group, weight
                  decay included.
    quantizer_lr  of a second Adam, without weight decay, for bounds, steps and output scales;
                  students only, and not with "sgd_nesterov".
    schedule      "epoch": stepped per epoch, no warm-up. "step": per step, after `warmup_steps` of
                  linear warm-up.
    precision     "float32", or "bfloat16" for the convolutions and linear layers but the last;
                  weights, statistics and losses stay in float32.
    evaluate_every  the test images are looked at after every so many epochs, and after each of the
                    last five.
    threads       of the processor, which decide how sums are rounded; None takes what the sweep
                  gives, so that the result depends on the number of cores.
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

    def __post_init__(self):
        known = ("sgd", "sgd_nesterov", "adam")
        require(
            self.optimiser in known,
            f"unknown optimiser {self.optimiser!r}; known: {', '.join(known)}",
        )
        require(
            self.schedule in ("epoch", "step"),
            f"unknown schedule {self.schedule!r}; known: epoch, step",
        )
        require(self.warmup_steps >= 0, f"warmup_steps must be at least 0, got {self.warmup_steps}")
        require(
            self.schedule == "step" or not self.warmup_steps,
            f"warmup_steps = {self.warmup_steps} need schedule 'step'",
        )
        require(
            self.optimiser != "sgd_nesterov" or not self.quantizer_lr,
            f"quantizer_lr = {self.quantizer_lr} has no effect with sgd_nesterov",
        )
        check_precision(self.precision)
        require(self.epochs >= 1, f"a run needs at least 1 epoch, got {self.epochs}")
        require(
            self.evaluate_every >= 1,
            f"evaluate_every must be at least 1, got {self.evaluate_every}",
        )
        require(
            self.threads is None or self.threads >= 1,
            f"threads must be None or at least 1, got {self.threads}",
        )
        require(self.batch >= 2, f"a batch needs at least 2 images, got {self.batch}")
        require(self.lr > 0, f"the learning rate must be positive, got {self.lr}")
        for name in ("weight_decay", "quantizer_lr"):
            require(
                getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}"
            )
