"""The list of methods: their names, papers, files and tests."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .augment import POLICIES
from .data import DATASETS
from .losses import OBJECTIVES, Objective, objective
from .models import MODELS
from .quantizers import METHODS, Method


def _files(*functions: Callable) -> str:
    """The files of functions or classes, without the name of this package."""
    made = [f.func if isinstance(f, partial) else f for f in functions]
    names = [f.__module__.removeprefix("paperlib.").replace(".", "/") for f in made]
    return ", ".join(f"`{name}.py`" for name in dict.fromkeys(names))


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in options.items())


def _weights(objective: Objective) -> str:
    """gamma CE + alpha L(logits) + beta L(layers) in short, L the loss of the row."""
    terms = (
        (objective.gamma, "CE"),
        (objective.alpha, "L(logits)"),
        (objective.beta, f"L({', '.join(objective.layers)})"),
    )
    text = " + ".join(
        f"{weight:g} {name}" if weight != 1 else name for weight, name in terms if weight
    )
    return text + (f"; {objective.init_epochs} epochs before" if objective.init_epochs else "")


def _table(kind: str, rows: Mapping[str, dict[str, str]]) -> str:
    """A Markdown table of rows by name; the keys of the first are the header."""
    header = [kind, *next(iter(rows.values()))]
    cells = [[f"`{name}`", *row.values()] for name, row in rows.items()]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def methods() -> str:
    """A Markdown table each of quantizers, losses, networks, augmentations and data sets."""

    def row(entry: Any, *functions: Callable, **facts: str) -> dict[str, str]:
        proof = f"`{entry.proof}`" if entry.proof else ""
        return {"paper": entry.paper, **facts, "file": _files(*functions), "proof": proof}

    def quantizer(m: Method) -> dict[str, str]:
        options = _options(m.weight_options | m.activation_options)
        return row(m, m.weight, m.activation, options=options)

    losses = {
        name: row(
            entry,
            entry.loss,
            category=", ".join(dict.fromkeys((entry.knowledge, entry.scheme))),
            **{"weights and layers": _weights(objective(name)), "under CutMix": entry.cutmix},
            options=_options(entry.options),
        )
        for name, entry in OBJECTIVES.items()
    }
    tables = {
        "quantizer": {name: quantizer(method) for name, method in METHODS.items()},
        "loss": losses,
        "network": {name: row(network, network.make) for name, network in MODELS.items()},
        "augmentation": {name: row(policy, policy.draw) for name, policy in POLICIES.items()},
        "data set": {name: row(source, source.load) for name, source in DATASETS.items()},
    }
    return "\n".join(_table(kind, rows) for kind, rows in tables.items())
