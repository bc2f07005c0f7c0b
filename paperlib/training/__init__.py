"""Training teachers and students: one loop for one network or many.

loop.py      epochs, evaluation, checkpoints        learners.py  what learns, step by step: batches,
             losses, optimisers
packing.py   many small students as one network     capture.py   a step as one CUDA graph
sharing.py   many students over the same batches, in turn
"""

from .learners import Task, batches
from .loop import accuracy, evaluated, evaluation, fit, fit_in_turn, fit_together, predictions
