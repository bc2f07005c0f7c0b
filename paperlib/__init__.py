"""Data-augmented quantization-aware knowledge distillation (arXiv 2509.03850), reproduced.

What a stranger starts from can be imported from here; the formulas stay in their rooms
(`paperlib.scoring`, `paperlib.quantizers`, `paperlib.losses`, `paperlib.augment`). Nothing is
loaded before it is used: `import paperlib` takes no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
