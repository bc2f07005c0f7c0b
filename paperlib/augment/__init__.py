"""Random views of labelled images, in batched tensor code on the images' device.

    ops.py       one operation on a batch, equal to torchvision's byte for byte
    policies.py  which operations a policy draws
    pipeline.py  the sixteen candidates: crop, mirror, policy, CutMix
"""

from .ops import OPS, apply_op
from .pipeline import AUGMENTATIONS, CUTMIX, POLICIES, augment, cutmix, generator, parse

__all__ = ["AUGMENTATIONS", "CUTMIX", "OPS", "POLICIES", "apply_op", "augment", "cutmix", "generator", "parse"]
