"""Random views of labelled images, in batched tensor code on the images' device.

ops.py       the operations, equal to torchvision's byte for byte; every image of a batch has its
             own
base.py      resized crop, mirror and colour jitter, the base augmentation of Tiny-ImageNet
policies.py  what a policy draws, and what it does to the pixels with that
pipeline.py  the sixteen candidates: base augmentation, policy, CutMix; for one batch or many at
once
"""

from .ops import OPS, apply_chains, apply_op, to_device
from .pipeline import (
    AUGMENTATIONS,
    CUTMIX,
    POLICIES,
    Policy,
    at_once,
    augment,
    augment_batches,
    cutmix,
    cutmix_draw,
    generator,
    parse,
)

__all__ = [
    "AUGMENTATIONS",
    "CUTMIX",
    "OPS",
    "POLICIES",
    "Policy",
    "apply_chains",
    "apply_op",
    "at_once",
    "augment",
    "augment_batches",
    "cutmix",
    "cutmix_draw",
    "generator",
    "parse",
    "to_device",
]
