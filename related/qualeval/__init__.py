"""QualEval (arXiv 2311.02807): on which images a network loses by quantization, and gains by an
augmentation, in sentences made by rule.
"""
