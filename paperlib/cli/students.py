"""Commands that make a low-bit student of one's own, and the file that runs elsewhere."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..basics.checks import require
from ..basics.files import make_folder
from . import options as given

HELD_OUT = 10  # of so many pictures of a class one is for testing, where no folder is for that


def _methods() -> tuple[str, ...]:
    from ..quantizers import METHODS

    return tuple(METHODS)


def _losses() -> tuple[str, ...]:
    from ..losses import OBJECTIVES

    return tuple(OBJECTIVES)


def train(
    teacher: given.Teacher,
    data: given.Data,
    out: Annotated[str, typer.Option(help="the student's file, .safetensors")],
    augmentation: Annotated[
        str, typer.Option(help="a name, module:name of your own, or a ranking.json: its first")
    ] = "none",
    weights: given.Weights = "",
    classes: given.Classes = "",
    order: given.Order = "auto",
    test: Annotated[
        str, typer.Option(help="a folder to test on; empty: val beside train, or one in ten")
    ] = "",
    method: Annotated[str, given.among(_methods, "the quantizer")] = "ewgs",
    bits: Annotated[int, typer.Option(min=1, max=8, help="of weights and activations")] = 2,
    loss: Annotated[str, given.among(_losses, "what is compared with the teacher")] = "kd",
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    batch: Annotated[int, typer.Option(min=2)] = 64,
    lr: Annotated[float, typer.Option(help="of Adam")] = 1e-3,
    quantizer_lr: Annotated[float, typer.Option(help="of the quantizers' parameters")] = 1e-5,
    mean: given.Mean = "",
    std: given.Std = "",
    size: given.Size = 0,
    per_class: given.PerClass = 0,
    mirror: given.Mirror = None,
    precision: given.Precision = "float32",
    device: given.Device = "cpu",
    workers: given.Workers = -1,
    seed: given.Seed = 0,
) -> int:
    """Train a low-bit copy of your teacher under an augmentation. Interrupted, it resumes."""
    import pandas as pd

    from ..basics.files import write_atomically
    from ..basics.recipe import Recipe
    from ..losses import objective
    from ..quantizers import describe, quantize, save_student
    from ..training import Task, fit
    from .bringing import Wanted, bring

    wanted = Wanted(
        teacher, weights, data, classes, order, False, mean, std, size, per_class, mirror, device,
        workers, seed,
    )  # fmt: skip
    recipe = Recipe(epochs, batch, lr, 0.0, quantizer_lr=quantizer_lr, precision=precision)
    name, file = _augmentation(augmentation), _file(out, ".safetensors")
    require(not teacher.endswith(".pt2"), f"a program cannot be quantized, got {teacher!r}")
    brought = bring(wanted, print)
    student = quantize(brought.teacher, method, bits, bits)
    student.card = replace(student.card, network=teacher, outputs=len(brought.classes))
    images = _dataset(brought, test or _beside(data)).to(device)
    low = describe(student, images.normalise(images.train_images[:1])).attrs["weights"]
    print(f"low-bit: {low:.1%} of the weights; augmentation {name}; {epochs} epochs", flush=True)
    task = Task(images, name, objective(loss), recipe, seed, brought.teacher)
    checkpoint = file.with_suffix(".epoch.pt")
    identity = _identity(student.card, brought.teacher, images)
    curve = fit(student, task, checkpoint, _line(epochs), identity=identity)
    save_student(student, file, brought.classes, images.mean, images.std)
    table = pd.DataFrame(curve).drop(columns="test_accuracy_halves", errors="ignore")
    write_atomically(file.with_suffix(".csv"), table.to_csv(index=False))
    checkpoint.unlink(missing_ok=True)
    print(f"written: {file}, and its curve {file.with_suffix('.csv')}")
    return 0


def _file(path: str, suffix: str) -> Path:
    """The file to write, whose folder is there. Raises ValueError or OSError if it cannot be
    written.
    """
    file = Path(path)
    good = file.suffix == suffix and not file.is_dir()
    require(good, f"out must be a file {suffix}, got {path!r}")
    make_folder(file.parent)
    return file


def _identity(card: Any, teacher: Any, images: Any) -> str:
    """Of all that a training resumes with, besides the options: other pictures have another."""
    from ..models.weights import as_safetensors

    known = repr((card, images.classes, images.mean, images.std, images.mirror)).encode()
    found = hashlib.sha256(as_safetensors(teacher) + known)
    for part in (images.train_images, images.train_labels, images.test_images, images.test_labels):
        found.update(repr(part.shape).encode())
        found.update(part.cpu().contiguous().numpy())
    return found.hexdigest()


def _line(epochs: int) -> Any:
    """Prints a line an epoch."""

    def report(row: dict[str, Any]) -> None:
        number = row.get("epoch", row.get("initial_epoch", 0)) + 1
        stage = "first stage, epoch" if "initial_epoch" in row else "epoch"
        tested = f", {row['test_accuracy']:.2f} %" if "test_accuracy" in row else ""
        of = "" if "initial_epoch" in row else f"/{epochs}"
        seconds = f"{row['seconds']:.1f} s"
        print(f"{stage} {number}{of}: loss {row['loss']:.4g}{tested}, {seconds}", flush=True)

    return report


def _augmentation(text: str) -> str:
    """A name that training knows: one of the package, the first of a ranking, or one's own, which
    is then registered.
    """
    import json

    from ..augment import POLICIES, as_policy
    from ..augment.pipeline import augmentation_name
    from .bringing import chosen

    if text.endswith(".json"):
        try:
            text = json.loads(Path(text).read_text(encoding="utf-8"))["table"][0]["augmentation"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{text} is no ranking: {error!r}") from error
    if ":" in text:
        found = chosen(text)
        require(len(found) == 1, f"augmentation must name one, got {text!r} of {list(found)}")
        ((name, function),) = found.items()
        require(
            name not in POLICIES, f"{text!r} must not be called as one of the package, {name!r}"
        )
        POLICIES[name] = as_policy(function)
        return name
    augmentation_name("augmentation", text)
    return text


def _beside(data: str) -> str:
    """The folder for testing beside that for training; "" if there is none."""
    from ..data.pictures import splits

    above = splits(Path(data)) if Path(data).is_dir() else []
    return str(Path(data, above[1])) if len(above) > 1 else ""


def _dataset(brought: Any, test: str) -> Any:
    """Training and test images in memory."""
    import numpy as np

    from ..data import dataset_of
    from ..data.pictures import Pictures
    from .bringing import tested

    found, scale = brought.data, {"mean": brought.look.mean, "std": brought.look.std}
    names = {"classes": brought.classes, "mirror": brought.mirror, "name": "own images"}
    names["workers"] = brought.workers
    if test:
        other = tested(Path(test), brought.classes, brought.look, brought.workers, print)
        print(f"tested on the {len(other)} pictures of {test}")
        return dataset_of(found, other, **names, **scale)
    labels = brought.labels.numpy()
    apart = np.zeros(len(labels), bool)
    for k in range(len(brought.classes)):
        apart[np.flatnonzero(labels == k)[HELD_OUT - 1 :: HELD_OUT]] = True
    held, kept = np.flatnonzero(apart).tolist(), np.flatnonzero(~apart).tolist()
    if not held:
        raise ValueError(f"no class has {HELD_OUT} pictures: give --test FOLDER")
    print(f"tested on {len(held)} of the {len(labels)} pictures, which are not trained on")
    if isinstance(found, Pictures):
        return dataset_of(found.take(kept), found.take(held), **names, **scale)
    parts = ((found[0][places], found[1][places]) for places in (kept, held))
    return dataset_of(*parts, **names, **scale)


def export(
    student: Annotated[str, typer.Argument(help="a file that `paperlib train` wrote")],
    out: Annotated[str, typer.Argument(help="the file to write, .onnx")],
    data: given.Data,
    network: Annotated[
        str,
        typer.Option(help="what it was quantized from, if the file does not say: module:factory"),
    ] = "",
    size: given.Size = 0,
    images: Annotated[int, typer.Option(min=2, help="to compare with torch on, at most")] = 1000,
    workers: given.Workers = -1,
) -> int:
    """Write a student as one ONNX file with packed weights, and compare it with torch."""
    from ..quantizers import agreement, load_student
    from ..quantizers import export as write
    from .bringing import processes

    _file(out, ".onnx")
    card, factory = _factory(student, network)
    found = load_student(student, factory)
    x, labels = _compared(card, factory, data, size, images, processes(workers))
    table = write(found, out, x[:16], card.classes, card.mean, card.std)
    _say_layers(table, out)
    same = agreement(found, out, x, labels)
    a, b = same.attrs["accuracy"]
    print(f"of {same.attrs['images']} pictures {same.attrs['equal']} get torch's class; right: "
          f"torch {a:.2f} %, the file {b:.2f} %")  # fmt: skip
    if len(same):
        print(same.to_string(index=False))
    return 0


def _say_layers(table: Any, out: str) -> None:
    """What became of each low-bit layer; why it runs in float is said once for all of a kind."""
    low = table[table["stored"].notna()]
    columns = ["layer", "weights", "weight_bits", "activation_bits", "stored", "kernel"]
    print(low[columns].to_string(index=False))
    for why, names in low[low["kernel"] == "float"].groupby("why", sort=False)["layer"]:
        print(f"{len(names)} layers run in float: {why}")
    floats = 4 * table["weights"].sum() / 1000
    size = f"{table.attrs['bytes'] / 1000:,.1f} kB, its weights as floats {floats:,.1f} kB"
    print(f"{out}: {size}; {table.attrs['int8']:.1%} of the multiply-adds in int8 kernels")


def _factory(path: str, network: str) -> tuple[Any, Any]:
    """The card in a student's file, and what makes the network that was quantized."""
    from safetensors import SafetensorError, safe_open

    from ..models.bring import TIMM, network_of
    from ..quantizers.card import card_of

    try:
        with safe_open(path, "pt") as file:
            card = card_of(file.metadata() or {})
        said = card.classes and card.mean and card.std
        require(said, "it does not say its classes, mean and std, which save_student takes")
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"no student can be made of {path}: {error}") from error
    spec = network or card.network or ""
    if not network and not spec.startswith(TIMM):
        return card, None  # code that a file names is not run
    return card, lambda: network_of(spec, classes=card.outputs, pretrained=False)


def _compared(
    card: Any, factory: Any, data: str, size: int, count: int, workers: int
) -> tuple[Any, Any]:
    """Images as the network takes them, at most so many, and their labels."""
    import torch

    from ..data.dataset import each_channel
    from ..data.pictures import arrays, splits
    from ..data.streams import shelf
    from ..models.bring import preprocessing_of
    from ..scoring.racing import nested_order
    from .bringing import known_data, tested

    known = known_data(data)
    source = Path(data)
    folder = known is None and source.suffix != ".npz"
    require(folder or not size, f"--size is for a folder of pictures, {data} is none")
    if known is not None:
        found = known.test_images, known.test_labels
    elif not folder:
        found = arrays(source)[:2]
    else:
        source = source / splits(source)[-1] if splits(source) else source
        look = preprocessing_of(factory and factory(), card.mean, card.std, size or None)
        found = tested(source, card.classes, look, workers, print)
    places = shelf(found, workers)
    order = nested_order(places.labels())[:count]
    images, labels = map(torch.cat, zip(*places.read(order.numpy(), 100), strict=True))
    classes, most = len(card.classes), int(labels.max())
    require(most < classes, f"{data} has the label {most}, the student {classes} classes")
    require(images.shape[1] == 3, f"{data}: images must be RGB, got {images.shape[1]} channels")
    mean, std = (torch.tensor(each_channel(x)).view(1, -1, 1, 1) for x in (card.mean, card.std))
    return (images / 255 - mean) / std, labels


COMMANDS = (train, export)
