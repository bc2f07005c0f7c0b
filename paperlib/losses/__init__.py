"""Objectives of students: gamma CE + alpha L_logits + beta L_features.

registry.py    `OBJECTIVES`, the losses by name; a file for each, which ends with its entry
objective.py   weights and layers: `objective(name)`, and `Objective.attach`, which makes it a
               module for two networks
distillers.py  the base of losses that learn something   features.py  what losses of features share

A new loss is one file, here or anywhere: a function (fs, ft) -> scalar of a layer's features, and
an entry. One that learns is a subclass of `Distiller`.

>>> def cosine(fs, ft):
...     return 1 - torch.cosine_similarity(fs.flatten(1), ft.flatten(1)).mean()
>>> OBJECTIVES["cosine"] = Entry(cosine, "feature", "mine", {"beta": 5, "layers": ("vector",)})
>>> objective("cosine", alpha=1).layers
('vector',)
>>> del OBJECTIVES["cosine"]
"""

from ..basics.registry import import_all
from .at import attention
from .cc import Correlation, correlation
from .ce import cross_entropy
from .cktf import CKTF
from .crd import CRD
from .dist import dist
from .distillers import Distiller, Layerwise
from .dkd import dkd
from .fitnet import FitNet, hint
from .fsp import FSP, fsp
from .ft import FactorTransfer, factor
from .kd import kd
from .kdsvd import KDSVD, kdsvd
from .nst import nst
from .objective import Loss, Objective, objective
from .osakd import osakd, self_labels
from .pkt import pkt
from .registry import OBJECTIVES, Entry
from .rkd import rkd
from .sp import similarity
from .standardised import standardise
from .vid import VID

import_all(__name__, __path__)
