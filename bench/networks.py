"""python -m bench.networks: every quantizer on ten networks of others (timm, random weights), into
results/bench/networks.csv and .md. About 4 minutes on 2 cores.

Each pair is quantized, described, trained for five steps on one batch, saved and loaded, and
exported. A loss that does not fall is a row like any other.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from torch import Tensor, nn

from paperlib.basics.files import write_atomically
from paperlib.quantizers import METHODS, describe, initialise, quantize
from paperlib.reporting.style import markdown

SMALL = {"img_size": 64, "depth": 2}  # of transformers with patches of 16 pixels
# Ten architectures, with the arguments that make them small.
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "mobilenetv3_small_050": {},
    "tf_efficientnet_b0": {},
    "vit_tiny_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "convnext_atto": {},
    "nf_resnet26": {},
    "mixer_s32_224": {"img_size": 64},
    "mobilevit_xxs": {},
    "lcnet_050": {},
}
BITS, STEPS, RATE = 4, 5, 1e-2


def network(name: str) -> nn.Module:
    """One of the ten, with ten classes, for images of 64 x 64 pixels; its weights are drawn."""
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10, **NETWORKS[name])


def student_of(teacher: nn.Module, method: str) -> nn.Module:
    """A student of 4 bits, of 2 for ternary weights."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return quantize(teacher, method, 2 if method == "ternary" else BITS, BITS)


def losses(student: nn.Module, images: Tensor, labels: Tensor, steps: int) -> list[float]:
    """The cross-entropy before each step of SGD, and after the last."""
    optimiser, found = torch.optim.SGD(student.train().parameters(), RATE), []
    for _ in range(steps + 1):
        output = student(images)
        logits = output[0] if isinstance(output, tuple) else output
        loss = nn.functional.cross_entropy(logits, labels)
        found.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return found


def exports(student: nn.Module, images: Tensor) -> str:
    """ "yes" if `torch.export` gives a program with the same output, else what went wrong."""
    try:
        program = torch.export.export(student.eval(), (images,))
        same = torch.allclose(program.module()(images), student(images), atol=1e-5)
        return "yes" if same else "another output"
    except Exception as error:  # torch raises many kinds
        return f"{type(error).__name__}"


def row(name: str, method: str) -> dict[str, Any]:
    """What comes out for one pair."""
    teacher = network(name)
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    student, again = (student_of(teacher, method) for _ in range(2))
    initialise(student, images)
    table = describe(student)
    curve = losses(student, images, labels, STEPS)
    again.load_state_dict(student.state_dict())
    with torch.no_grad():
        same = torch.equal(student.eval()(images), again.eval()(images))
    return {
        "network": name,
        "method": method,
        "weights": 100 * table.attrs["weights"],
        "macs": 100 * table.attrs["macs"],
        "loss before": curve[0],
        "loss after": curve[-1],
        "loaded alike": "yes" if same else "no",
        "exported": exports(student, images),
    }


def main(folder: Path = Path("results/bench")) -> int:
    """Every pair, a line each as it is done; returns the exit status."""
    rows = []
    for name in NETWORKS:
        for method in METHODS:
            rows.append(row(name, method))
            print(*rows[-1].values(), flush=True)
    table = pd.DataFrame(rows)
    text = (
        "# Networks of others\n\n"
        f"`python -m bench.networks` with timm {timm.__version__} and torch {torch.__version__}: "
        f"{BITS} bits (2 for ternary weights), random weights, 4 images of 64 x 64, {STEPS} steps "
        "of SGD on one batch. Weights and multiply-adds are the low-bit shares in percent.\n\n"
    )
    write_atomically(folder / "networks.csv", table.to_csv(index=False))
    write_atomically(folder / "networks.md", text + markdown(table, 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
