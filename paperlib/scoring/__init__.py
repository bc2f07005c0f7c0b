"""Scoring augmentations with the teacher alone.

metrics.py  the formulas: logits, targets -> CMI, divergence, score, T. stddev, intervals
ranking.py  a teacher and images -> all candidates, best first
racing.py   the best of them for a part of the work, from estimates.py: what few images say
"""

from .metrics import (
    Score,
    bootstrap,
    calibrating_temperature,
    centroid_divergence,
    class_centroids,
    cmi,
    evaluate,
    interval,
    score,
    teacher_stddev,
)
from .options import Scoring
from .racing import rank_within
from .ranking import AS_DEFINED, ablate, logits_of, predict, predict_views, rank, scoring_order
