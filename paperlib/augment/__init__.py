"""Random views of labelled images, in batched tensor code on the images' device.

ops.py       the operations, equal to torchvision's byte for byte; every image of a batch has its
             own
base.py      resized crop, mirror and colour jitter, the base augmentation of Tiny-ImageNet
policies.py  what a policy draws, and what it does to the pixels with that; `POLICIES` by name
pipeline.py  the sixteen candidates: base augmentation, policy, CutMix; for one batch or many at
once
candidates.py  those, and any transform or function of a user's own
"""

from ..basics.registry import import_all
from .candidates import Candidate, as_policy, candidates, on_batch
from .ops import OPS, apply_chains, apply_op, to_device
from .pipeline import (
    AUGMENTATIONS,
    CUTMIX,
    at_once,
    augment,
    augment_batches,
    augmented,
    cutmix,
    cutmix_draw,
    generator,
    parse,
)
from .policies import POLICIES, Policy

import_all(__name__, __path__)
