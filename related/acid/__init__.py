"""ACID and ACED: distillation by choosing which images are learned, and CutMixPick.

Udandarao et al., "Active Data Curation Effectively Distills Large-Scale Multimodal Models", CVPR
2025, arXiv 2411.18674. Wang et al., "What Makes a 'Good' Data Augmentation in Knowledge
Distillation", NeurIPS 2022, arXiv 2012.02909.
"""
