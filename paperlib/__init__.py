"""Data-augmented quantization-aware knowledge distillation: score augmentations with the teacher,
train low-bit students.
"""

__version__ = "0.1.0"
