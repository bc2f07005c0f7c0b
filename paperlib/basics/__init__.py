"""Helpers for every layer. They import no other room, and no torch.

recipe.py      how weights are trained           statistics.py  rank correlations, regret
confidence.py  effect of confidence on scores    files.py       atomic writes
registry.py    names of losses, quantizers, networks, augmentations, data sets
"""
