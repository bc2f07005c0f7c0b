"""What a student minimises: gamma CE + alpha L_logits + beta L_features.

functional.py   losses of logits, as functions     features.py     losses of features, as functions
distillers.py   those that learn something         contrastive.py  those that remember every image
objective.py    weights and layers: `OBJECTIVES`, and `Objective.attach`, which makes them a module
                for two networks

A new loss is one function (fs, ft) -> scalar of a layer's features and one entry of
`FEATURE_LOSSES`; one that learns is a subclass of `Distiller` and the same entry. Then
`Objective(beta=1, feature_loss="mine", layers=("maps",))` uses it.
"""

from .contrastive import CKTF, CRD
from .distillers import FSP, KDSVD, VID, Correlation, Distiller, FactorTransfer, FitNet, Layerwise
from .features import attention, correlation, factor, fsp, hint, kdsvd, nst, pkt, rkd, similarity
from .functional import cross_entropy, dkd, kd
from .objective import (
    FEATURE_LOSSES,
    LOGIT_LOSSES,
    METHOD_NOTES,
    OBJECTIVES,
    Loss,
    MethodNote,
    Objective,
    objective,
)

__all__ = [
    "CKTF",
    "CRD",
    "FEATURE_LOSSES",
    "FSP",
    "KDSVD",
    "LOGIT_LOSSES",
    "METHOD_NOTES",
    "OBJECTIVES",
    "VID",
    "Correlation",
    "Distiller",
    "FactorTransfer",
    "FitNet",
    "Layerwise",
    "Loss",
    "MethodNote",
    "Objective",
    "attention",
    "correlation",
    "cross_entropy",
    "dkd",
    "factor",
    "fsp",
    "hint",
    "kd",
    "kdsvd",
    "nst",
    "objective",
    "pkt",
    "rkd",
    "similarity",
]
