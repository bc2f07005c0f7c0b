"""What a stranger writes against the public face, for the type checker (`make lint`); not run."""

import torch

import paperlib


def ranked(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[str]:
    table = paperlib.rank(
        network, (images, labels), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), batch=50
    )
    best: str = paperlib.AUGMENTATIONS[0]
    return [best, *table["augmentation"]]


def scored(logits: torch.Tensor, labels: torch.Tensor) -> float:
    found: paperlib.Score = paperlib.score(logits, labels)
    return found.score


def student(teacher: torch.nn.Module, data: paperlib.Dataset, augmentation: str) -> float:
    low_bit: torch.nn.Module = paperlib.quantize(teacher, "ewgs", 2, 2)
    paperlib.initialise(low_bit, data.normalise(data.train_images[:8]))
    recipe = paperlib.Recipe(epochs=2, batch=32, lr=1e-3, weight_decay=1e-4)
    task = paperlib.Task(data, augmentation, paperlib.objective("kd"), recipe, 0, teacher)
    curve: list[dict[str, float]] = paperlib.fit(low_bit, task)
    return curve[-1]["loss"] + paperlib.accuracy(low_bit, paperlib.load("digits"))
