"""Knowledge distillation thrives on data augmentation: TLmixup, TLCutMix and long schedules.

Wang, Lohit, Jones & Fu, "Knowledge Distillation Thrives on Data Augmentation", arXiv 2012.02909 v1,
2020; its final form is "What Makes a 'Good' Data Augmentation in Knowledge Distillation", NeurIPS
2022.
"""
