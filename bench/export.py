"""python -m bench.export: exported students beside float32, float16 and onnxruntime's int8, into
results/bench/export.csv and .md. About 15 minutes on 2 cores, most of it training.

Three students of CIFAR-10: ResNet-20, EWGS, 2 bits, whose weights are committed with its record;
VGG-8 of a committed teacher, EWGS, 2 bits; and a small vision transformer of timm, LSQ, 4 bits,
with a teacher trained here. The latter two learn for a few epochs, so that there is an accuracy to
compare, and are kept in build/bench. Latency is that of one thread, all contenders in turns.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import safetensors.torch
import timm
import torch
from onnxruntime import quantization
from torch import nn

from paperlib.basics.files import write_atomically
from paperlib.basics.recipe import Recipe
from paperlib.data import Dataset, load, subset
from paperlib.losses import objective
from paperlib.models import build
from paperlib.quantizers import agreement, export, load_student, quantize, save_student
from paperlib.quantizers.export import session
from paperlib.reporting.style import markdown
from paperlib.runs.kinds import load_network
from paperlib.study import plan
from paperlib.study.config import StudentRun
from paperlib.study.store import Store
from paperlib.training import Task, fit

from .measure import Contender, interleave

TRAINED, EPOCHS, ROUNDS = 5000, 4, 15  # images and epochs of students; rounds that are timed
CALIBRATED = 200  # images for onnxruntime's own quantization
NOTE = """# Exported students

`python -m bench.export` with {versions}, one thread. The load of the machine was {busy:.1f} on
{cores} cores: compare latencies with each other only; each is the median of {ROUNDS} rounds in
turns. float32, float16 and int8 are the teacher; int8 is onnxruntime's static quantization,
calibrated on {CALIBRATED} images, without training. The student of ResNet-20 is that of record
{key}. The others learned for {EPOCHS} epochs on {TRAINED} images of CIFAR-10.

kB: of the file. ms: for so many images; float16 is not timed, as onnxruntime has few kernels of it
here. accuracy: of 10,000 test images, in onnxruntime, %. torch: the student's in torch.
int8 macs: share of multiply-adds in int8 kernels, %. margins: by how much torch's logit of its
class exceeds that of the other, where labels differ.

"""
RESULTS = Store("cpu", "results")
VIT = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3}


def committed(network: str) -> nn.Module:
    """The best teacher of CIFAR-10 whose weights are in results/."""
    store, found = RESULTS, []
    for record in store.all():
        config = record["config"]
        path = store.folder / "weights" / f"{record['key']}.safetensors"
        if record["kind"] == "teacher" and config["model"] == network and path.exists():
            if config["data"]["name"] == "cifar10" and config["augmentation"] == "none":
                found.append((record["result"]["accuracy"], path))
    teacher = build(network, 10)
    teacher.load_state_dict(safetensors.torch.load(max(found)[1].read_bytes()))
    return teacher.eval()


def recorded() -> StudentRun:
    """The first student of the evidence runs, a ResNet-20; its weights are in results/."""
    return plan.regimes("cpu")[0].students[0]


def transformer(data: Dataset) -> nn.Module:
    """A vision transformer for 32 x 32 pixels, trained."""
    network, path = vit(), Path("build/bench/vit.safetensors")
    if not path.exists():
        recipe = Recipe(3 * EPOCHS, 128, 1e-3, 1e-4, precision="bfloat16")
        fit(network, Task(data, "none", objective("ce"), recipe, seed=0), report=print)
        write_atomically(path, safetensors.torch.save(network.state_dict()))
    network.load_state_dict(safetensors.torch.load(path.read_bytes()))
    return network.eval()


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, **VIT)


# Name -> the float network, given data; what makes it again; method and bits.
STUDENTS: dict[str, tuple[Callable, Callable | None, str, int]] = {
    "resnet20": (lambda data: load_network(recorded().teacher, RESULTS, "cpu"), None, "ewgs", 2),
    "vgg8": (lambda data: committed("vgg8"), None, "ewgs", 2),
    "timm vit": (transformer, vit, "lsq", 4),
}


def student_of(name: str, teacher: nn.Module, data: Dataset) -> nn.Module:
    """The trained student, made once."""
    if name == "resnet20":
        return load_network(recorded(), RESULTS, "cpu")
    _, factory, method, bits = STUDENTS[name]
    path = Path("build/bench", f"{name} {method} {bits}.safetensors")
    if not path.exists():
        student = quantize(teacher, method, bits, bits)
        rates = {"lr": 1e-3, "weight_decay": 0.0, "quantizer_lr": 1e-4}
        recipe = Recipe(EPOCHS, 128, **rates, precision="bfloat16")
        fit(student, Task(data, "none", objective("kd"), recipe, 0, teacher), report=print)
        save_student(student, path, data.classes, data.mean, data.std)
    return load_student(path, factory)


# ----------------------------------------------------------------------------------- contenders


def plain(network: nn.Module, path: Path, kind: torch.dtype) -> None:
    """A float network as ONNX."""
    images = torch.zeros(2, 3, 32, 32, dtype=kind)
    batch = ({0: torch.export.Dim("batch")},)
    names = {"input_names": ["images"], "output_names": ["logits"], "verbose": False}
    program = torch.export.export(network.to(kind), (images,), dynamic_shapes=batch)
    torch.onnx.export(program, f=path, external_data=False, **names)
    network.float()


class Images(quantization.CalibrationDataReader):
    """Those on which onnxruntime calibrates."""

    def __init__(self, images: np.ndarray):
        self.parts = iter(np.split(images, len(images) // 50))

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self.parts, None)
        return None if part is None else {"images": part}


def files_of(
    folder: Path, teacher: nn.Module, student: nn.Module, data: Dataset
) -> tuple[dict[str, Path], float]:
    """Each contender's file and, of ours, the share of multiply-adds in int8."""
    images = data.normalise(data.train_images[:CALIBRATED])
    paths = {name: folder / f"{name}.onnx" for name in ("float32", "float16", "int8", "ours")}
    plain(teacher, paths["float32"], torch.float32)
    plain(teacher, paths["float16"], torch.float16)
    calibration = Images(images.numpy())
    with tempfile.TemporaryDirectory() as prepared:
        ready = Path(prepared, "ready.onnx")
        quantization.quant_pre_process(paths["float32"], ready)
        quantization.quantize_static(ready, paths["int8"], calibration, per_channel=True)
    return paths, export(student, paths["ours"], images).attrs["int8"]


def accuracy_of(run: Callable, images: np.ndarray, labels: np.ndarray) -> float:
    parts = np.split(images, len(images) // 250)
    return 100 * float((np.concatenate([run(part).argmax(1) for part in parts]) == labels).mean())


def rows_of(name: str, data: Dataset, test: Dataset) -> list[dict[str, Any]]:
    """Every contender for one network."""
    teacher = STUDENTS[name][0](data)
    student = student_of(name, teacher, data)
    images, labels = test.normalise(test.test_images), test.test_labels
    with tempfile.TemporaryDirectory() as folder:
        files, share = files_of(Path(folder), teacher, student, data)
        found = agreement(student, files["ours"], images, labels)
        runs = {kind: session(path) for kind, path in files.items() if kind != "float16"}
        times, rows = latency(runs, images.numpy()), []
        for kind, path in files.items():
            row = {"network": name, "file": kind, "kB": path.stat().st_size / 1e3}
            if kind in runs:
                row |= {f"ms, {count}": times[kind, count] for count in (1, 64)}
                row["accuracy"] = accuracy_of(runs[kind], images.numpy(), labels.numpy())
            rows.append(row)
    ours = rows[-1]
    ours["file"] = f"ours, {STUDENTS[name][2]} {STUDENTS[name][3]} bits"
    ours |= {"torch": found.attrs["accuracy"][0], "int8 macs": 100 * share}
    ours["same label"] = f"{found.attrs['equal']} of {found.attrs['images']}"
    margins = ", ".join(f"{margin:.4f}" for margin in found["margin"])
    ours["margins"] = margins
    return rows


def latency(runs: dict[str, Callable], images: np.ndarray) -> dict[tuple[str, int], float]:
    """Milliseconds a call, the median of the rounds, by contender and number of images."""
    found = {}
    for count in (1, 64):
        calls = 100 if count == 1 else 1
        part = images[:count]

        def repeat(run: Callable, part: np.ndarray = part, calls: int = calls) -> None:
            for _ in range(calls):
                run(part)

        contenders = [Contender(n, partial(repeat, run), calls) for n, run in runs.items()]
        rates = interleave(contenders, ROUNDS)
        found |= {(n, count): 1e3 / float(np.median(rate)) for n, rate in rates.items()}
    return found


def main(folder: Path = Path("results/bench")) -> int:
    """Print each network's rows, and write them all; returns the exit status."""
    torch.set_num_threads(1)
    onnxruntime.set_default_logger_severity(3)
    whole, rows = load("cifar10"), []
    data = subset(whole, train=TRAINED, test=1000)
    for name in STUDENTS:
        rows += rows_of(name, data, whole)
        print(pd.DataFrame(rows).to_string(), flush=True)
    table = pd.DataFrame(rows)
    busy, cores = os.getloadavg()[1], os.cpu_count()
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, onnxruntime, timm))
    facts = {"busy": busy, "cores": cores, "key": recorded().key}
    text = NOTE.format(versions=versions, **facts, **globals())
    write_atomically(folder / "export.csv", table.to_csv(index=False))
    write_atomically(folder / "export.md", text + markdown(table, 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
