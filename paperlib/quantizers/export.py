"""A low-bit student as one ONNX file that onnxruntime runs, and whether it says what torch says."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..basics.checks import checked, require, several, word
from ..basics.files import write_atomically
from ..data.checks import floats, labels_of, module
from ..models import in_mode
from ..models.outputs import logits_in
from .card import file_path, known_card
from .description import describe
from .ends import copied, unwrapped
from .graph import DOMAIN, OPSET, Rewriting, tidy
from .layers import LowBit, QuantizedLayer, Quantizer
from .line import Stored

# Among a quantizer's codes for these are the least and the largest.
PROBES = (-1e30, -1.0, 0.0, 1.0, 1e30)


def needed(name: str) -> ModuleType:
    """A package of the extra `export`. Raises ImportError, with the command that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        text = f"{name} is needed, of the extra `export`: pip install 'paperlib[export]'"
        raise ImportError(text) from error


@checked(student=module, path=file_path, images=floats("N _ ...", door=True), classes=several(word))
def export(
    student: nn.Module,
    path: str | Path,
    images: Tensor,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Write a student as one ONNX file, its low-bit weights packed, for onnxruntime.

    student  as `quantize` and training made it, ready; it is not changed, nor are its modes.
    path     of the file, which is replaced in one step.
    images   (N, ...) float, as the network takes them. One is enough; the file takes any number, of
             this size.
    classes, mean, std  names of the classes and what images are normalised with; they are written
             into the file's metadata, with the student's method and bits.

    Input "images", output "logits". Weights lie there as UINT2, UINT4 or UINT8, the least that
    holds their values, and a table gives each its code. So the file takes these, 4 bytes for any
    other number of the network, and below 1,000 bytes for each of its modules. Codes of inputs and
    sums of products are the integers that torch has, but for the rounding of 32-bit floats. Which
    products are computed in int8, and what that changes, graph.py says. Without VNNI processors add
    pairs of 8-bit products in 16 bits; a layer where these could overflow, as of 8 bits, stays in
    float, and so is right everywhere.

    Returns the rows of `describe`, and for a low-bit layer: stored, the type of its weights; bytes;
    kernel, "int8" or "float"; and why it is not int8, or what that changes. `.attrs` has
    `describe`'s shares, bytes of the file, and int8, the share of multiply-adds in int8 kernels.
    Raises ValueError for a student that is not ready or not float32, and for a layer that cannot be
    exported, which it names; ImportError without onnx and onnxscript.

    >>> from tempfile import mkdtemp
    >>> from paperlib.quantizers import initialise, quantize
    >>> layers = nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2)
    >>> student = quantize(nn.Sequential(*layers), "lsq", 2, 2)
    >>> initialise(student, torch.rand(5, 2))
    >>> path = Path(mkdtemp(), "student.onnx")
    >>> table = export(student, path, torch.rand(1, 2))
    >>> table[["layer", "stored", "bytes", "kernel"]].values.tolist()[1]
    ['2', 'UINT2', 400.0, 'int8']
    >>> agreement(student, path, torch.rand(20, 2)).attrs["equal"]
    20
    """
    onnx = needed("onnx")
    needed("onnxscript")
    student = _ready(student)
    card = known_card(student, classes, mean, std)
    network, images = copied(student).cpu().eval(), images.detach().cpu()
    with in_mode(network, training=False), torch.no_grad():
        logits = logits_in(network(images))
        table = describe(network, images[:1])
        named = classes is None or len(classes) == logits.shape[-1]
        require(named, f"{len(classes or ())} classes are named of {logits.shape[-1]} outputs")
        layers = _stored(network, images)
        model = _traced(network, images)
    Rewriting(model.graph, layers).run()
    tidy(model)
    onnx.helper.set_model_props(model, card.texts())
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    write_atomically(Path(path), content)
    return _summary(table, layers, len(content))


def _ready(student: nn.Module) -> nn.Module:
    """The student itself, out of its wrappers. Raises ValueError unless it can be exported."""
    student = unwrapped(student)
    low_bit = [m for m in student.modules() if isinstance(m, LowBit)]
    require(low_bit, "the network has no quantized layer: quantize(model, ...) makes a student")
    left = [layer.path for layer in low_bit if not layer.ready]
    require(not left, f"{tuple(left)} have no bounds yet: call initialise(student, images)")
    other = {str(p.dtype) for p in student.parameters() if p.dtype != torch.float32}
    require(not other, f"the student is not in float32 but in {', '.join(sorted(other))}")
    return student


# ------------------------------------------------------------------------------ the layers' weights


def _stored(network: nn.Module, images: Tensor) -> dict[str, Stored]:
    """The weights of the layers that these images reach. From now on a node that names the layer
    stands for each, which only torch.export can run.
    """
    layers = [m for m in network.modules() if isinstance(m, QuantizedLayer)]
    heard = {q: _listened(q) for x in layers for q in (x.weight_quantizer, x.activation_quantizer)}
    network(images)
    for quantizer in heard:
        del quantizer.codes
    found = {}
    for layer in layers:
        weights, inputs = heard[layer.weight_quantizer], heard[layer.activation_quantizer]
        if weights:
            codes, scale = weights[0]
            same = all(torch.equal(codes, other) for other, _ in weights)
            require(same, f"layer {layer.path!r} has another weight each time that it is called")
            values, index = torch.unique(codes, return_inverse=True)
            many = f"layer {layer.path!r} has {len(values)} different weights, 8 bits hold 256"
            require(len(values) <= 256, many)
            reach = _reach(layer.activation_quantizer, [codes for codes, _ in inputs])
            index, values = index.numpy().astype(np.uint8), values.numpy()
            found[layer.path] = Stored(layer.path, index, values, reach)
            layer.weight_quantizer.codes = partial(_mark, layer.path, codes.shape, scale)
    return found


def _listened(quantizer: Quantizer) -> list[tuple]:
    """What a quantizer gives from now on."""
    inner, found = quantizer.codes, []

    def codes(x: Tensor) -> tuple:
        found.append(inner(x))
        return found[-1]

    quantizer.codes = codes
    return found


def _mark(path: str, shape: torch.Size, scale: Any, weight: Tensor) -> tuple[Tensor, Any]:
    """In place of a weight's codes: a node that has the layer's name."""
    kind = {"dtype": torch.float32, "shape": shape}
    return torch.onnx.ops.symbolic(f"{DOMAIN}::Weight", (), {"layer": path}, **kind), scale


def _reach(quantizer: Quantizer, seen: list[Tensor]) -> tuple[int, int] | None:
    """The least and the largest code of an input, or 0; None unless codes are integers."""
    codes = torch.cat([quantizer.codes(torch.tensor(PROBES))[0], *map(torch.flatten, seen)])
    if not torch.equal(codes, codes.round()) or codes.abs().max() >= 2**15:
        return None
    return min(0, int(codes.min())), max(0, int(codes.max()))


# -------------------------------------------------------------------------------------- the network


class _Logits(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return logits_in(self.network(images))


def _traced(network: nn.Module, images: Tensor) -> Any:
    """The network as an onnx.ModelProto, for any number of images."""
    two = images[:1].expand(2, *images.shape[1:]).clone()  # torch takes one for a fixed size
    try:
        return _exported(_Logits(network), two, ({0: torch.export.Dim("batch")},))
    except Exception as error:  # torch raises many kinds
        why = error
        while why.__cause__ is not None:
            why = why.__cause__
        reason = next(iter(str(why).strip().splitlines()), type(why).__name__)
        raise ValueError(f"{_culprit(network)} cannot be exported: {reason}") from error


def _exported(network: nn.Module, images: Tensor, sizes: Any = None) -> Any:
    names = {"input_names": ["images"], "output_names": ["logits"]}
    options = {"opset_version": OPSET, "external_data": False, "verbose": False}
    with warnings.catch_warnings(action="ignore"):
        program = torch.export.export(network, (images,), dynamic_shapes=sizes)
        return torch.onnx.export(program, **names, **options).model_proto


def _culprit(network: nn.Module) -> str:
    """The layer whose input's quantizer cannot be exported alone, if there is one."""
    parts = {"even a ReLU": nn.ReLU()}  # by versions of packages that do not fit
    for layer in (m for m in network.modules() if isinstance(m, LowBit)):
        kind = type(layer.activation_quantizer).__name__
        parts[f"layer {layer.path!r} with its {kind}"] = layer.activation_quantizer
    for name, part in parts.items():
        try:
            _exported(part, torch.tensor(PROBES))
        except Exception:
            return name
    return "the network"


def _summary(table: pd.DataFrame, layers: dict[str, Stored], size: int) -> pd.DataFrame:
    """The rows of `describe` with what became of each layer."""
    for row, (path, why) in table[["layer", "why"]].iterrows():
        layer, low = layers.get(path), why == "low-bit"
        if low and layer:
            table.loc[row, ["stored", "bytes"]] = f"UINT{layer.bits}", layer.size
            why = layer.why
        elif low:
            why = "a product of two activations" if table["weights"][row] == 0 else "not called"
        table.loc[row, ["kernel", "why"]] = layer.kernel if low and layer else "float", why
    in_int8 = table["macs"][table["kernel"] == "int8"].sum()
    table.attrs |= {"bytes": size, "int8": float(in_int8 / table["macs"].sum())}
    return table


# ---------------------------------------------------------------------------------------- the proof


@checked(student=module, path=file_path, images=floats("N _ ...", door=True), labels=labels_of())
def agreement(
    student: nn.Module,
    path: str | Path,
    images: Tensor,
    labels: Tensor | None = None,
    batch: int = 250,
) -> pd.DataFrame:
    """The images that a file classifies otherwise than its student does in torch.

    student, path  as for `export`. images (N, ...) float, as the network takes them. labels (N,)
    int64.

    A row for each such image: image, its number; torch and onnx, the two classes; margin, by how
    much the logit of torch's class exceeds that of the other, in torch. `.attrs`: images, their
    number; equal, how many get the same class; difference, the largest of two logits; accuracy, of
    torch and of the file in percent, with labels.
    Raises ValueError for a file that onnxruntime cannot run on these images; ImportError without
    onnxruntime.
    """
    run = session(path)
    with in_mode(student, training=False), torch.no_grad():
        parts = images.split(batch)
        ours = torch.cat([logits_in(student(part)).cpu() for part in parts])
    theirs = torch.cat([torch.from_numpy(run(part.cpu().numpy())) for part in parts])
    a, b = ours.argmax(1), theirs.argmax(1)
    other = (a != b).nonzero()[:, 0]
    margin = ours[other, a[other]] - ours[other, b[other]]
    columns = {"image": other, "torch": a[other], "onnx": b[other], "margin": margin}
    table = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    table.attrs = {"images": len(images), "equal": len(images) - len(other)}
    table.attrs["difference"] = float((ours - theirs).abs().max())
    if labels is not None:
        right = ((each == labels.cpu()).double().mean() for each in (a, b))
        table.attrs["accuracy"] = tuple(100 * float(share) for share in right)
    return table


def session(path: str | Path, optimised: bool = True) -> Callable[[np.ndarray], np.ndarray]:
    """A file as a function of images, with as many threads as torch has. Raises ValueError if
    onnxruntime cannot load it. optimised  False: the graph as it is in the file.
    """
    ort = needed("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        loaded = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (name,) = (value.name for value in loaded.get_inputs())
    except Exception as error:  # onnxruntime has a class for each, and none in common
        raise ValueError(f"onnxruntime cannot load {path}: {error}") from error

    def run(images: np.ndarray) -> np.ndarray:
        try:
            return loaded.run(None, {name: images})[0]
        except Exception as error:
            raise ValueError(f"{path} cannot run on images {images.shape}: {error}") from error

    return run
