"""The graph of an exported student: its weights packed, its products in int8 where that is the same
and faster. For `export`; no torch here.

What was measured with onnxruntime 1.32 on one core with VNNI, 64 images of 32 x 16 x 16: a float
convolution takes 2.5 ms, ConvInteger 4 to 13 ms, QLinearConv 0.8 ms; of a matrix product
MatMulInteger with int8 weights takes a third of the float one or less. So products of linear layers
are MatMulInteger, whose sums are exact. A convolution whose output goes into the next layer's
quantizer alone is one QLinearConv that gives the next layer's codes, where line.py finds such
arithmetic. Any other convolution is a float one on the integer codes: its sums are exact too.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .line import CHAIN, Stored, grid_of, line_of

OPSET, IR = 25, 13  # the first with 2 bits
DOMAIN = "paperlib"  # of the node that stands for a layer's weight until it is packed
FLOAT, UINT8, INT8, INT32, UINT4, UINT2 = 1, 2, 3, 6, 21, 25  # onnx.TensorProto
DTYPES = {FLOAT: "<f4", INT8: "i1", INT32: "<i4"}
PACKED = {2: UINT2, 4: UINT4, 8: UINT8}


class Rewriting:
    """A graph on its way from the exporter's nodes to those that onnxruntime is to run."""

    def __init__(self, graph: Any, layers: dict[str, Stored]):
        from onnx import numpy_helper

        self.graph, self.layers, self.nodes, self.names = graph, layers, [], set()
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.users: dict[str, list] = {}
        self.makers: dict[str, Any] = {}
        self.weights: dict[str, tuple[str, tuple[int, ...] | None]] = {}  # value -> layer, order
        self.eight: dict[str, tuple[str, int]] = {}  # codes -> the same as uint8, which is 0
        self.swallowed: set[str] = set()  # values that are there as uint8 alone, or not at all
        for node in graph.node:
            self.makers[node.output[0]] = node
            for name in node.input:
                self.users.setdefault(name, []).append(node)
            if node.domain == DOMAIN:
                self.weights[node.output[0]] = node.attribute[0].s.decode(), None
            elif node.op_type == "Transpose" and node.input[0] in self.weights:
                path = self.weights[node.input[0]][0]
                self.weights[node.output[0]] = path, tuple(node.attribute[0].ints)

    def run(self) -> None:
        """Replace the graph's nodes."""
        for node in list(self.graph.node):
            if node.output[0] not in self.weights and node.output[0] not in self.swallowed:
                self.replace(node)
        used, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        del self.graph.node[:]
        self.graph.node.extend(reversed(kept))

    # ------------------------------------------------------------------------------ what is added

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """A node with one output of that name, once."""
        from onnx import helper

        if name not in self.names:
            self.names.add(name)
            self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, name: str, values: Any, kind: int = FLOAT) -> str:
        """An initialiser, once. Values of less than 8 bits are packed, the first one lowest."""
        from onnx import TensorProto

        if name not in self.names:
            self.names.add(name)
            content = np.asarray(values).astype(DTYPES.get(kind, "u1"))
            shape, bits = content.shape, next((b for b, k in PACKED.items() if k == kind), 8)
            if bits < 8:
                rows = np.pad(content.ravel(), (0, -content.size % (8 // bits)))
                places = np.arange(0, 8, bits, dtype="u1")
                content = np.bitwise_or.reduce(rows.reshape(-1, 8 // bits) << places, axis=1)
            tensor = TensorProto(name=name, data_type=kind, dims=shape, raw_data=content.tobytes())
            self.graph.initializer.append(tensor)
        return name

    def scalar(self, value: int, kind: int = UINT8) -> str:
        return self.constant(f"scalar.{kind}.{value}", value, kind)

    def weight(self, value: str, factors: Any = None, own: str = "", turn: bool = False) -> str:
        """A layer's codes in float or, times a factor for each output channel, in int8. own  begins
        the names of what this one call of the layer needs. turn  with
        both axes of a matrix exchanged.
        """
        path, order = self.weights[value]
        layer, name = self.layers[path], f"{path}.values"
        codes = self.constant(f"{path}.codes", layer.index, PACKED[layer.bits])
        places = self.add("Cast", [codes], f"{path}.places", to=INT32)
        self.add("Gather", [self.constant(f"{path}.table", layer.table), places], name)
        if factors is not None and np.any(factors != 1):
            shaped = np.reshape(factors, (-1, *[1] * (layer.index.ndim - 1)))
            factor = self.constant(f"{own}.factors", shaped)
            name = self.add("Mul", [name, factor], f"{own}.times")
        if factors is not None:
            name = self.add("Cast", [name], f"{name}.int8", to=INT8)
        if turn:
            order = (1, 0) if order is None else None
        return name if order is None else self.add("Transpose", [name], f"{name}.T", perm=order)

    def offset(self, value: int) -> str:
        return self.constant(f"offset.{value}", float(value))

    def codes8(self, value: str, layer: Stored) -> tuple[str, int]:
        """A layer's input as uint8, and which of its values is 0."""
        if value not in self.eight:
            zero, name = -layer.inputs[0], value
            source, grid = self.grid(value)
            if grid:
                shift, scale, bottom, top = grid
                name = f"{value}.uint8"
                if shift:
                    moved = [source, self.constant(f"{value}.shift", shift)]
                    source = self.add("Add", moved, f"{value}.shifted")
                inputs = [source, self.constant(f"{value}.scale", scale), self.scalar(zero)]
                self.add("QuantizeLinear", inputs, name)
                name = self.clipped(name, bottom + zero, top + zero)
            else:
                if zero:
                    name = self.add("Add", [value, self.offset(zero)], f"{value}.from0")
                name = self.add("Cast", [name], f"{value}.uint8", to=UINT8)
            self.eight[value] = name, zero
        return self.eight[value]

    def clipped(self, name: str, bottom: int, top: int) -> str:
        """uint8, which ends at 255, within the codes that there are."""
        if (bottom, top) == (0, 255):
            return name
        return self.add("Clip", [name, self.scalar(bottom), self.scalar(top)], f"{name}.clipped")

    def grid(self, value: str) -> tuple[str, tuple | None]:
        """What a quantizer is applied to, and its numbers; None where it is another kind."""
        found, shape = [], np.zeros((1, 1), np.uint8)
        while (node := self.makers.get(value)) and len(self.users[value]) == 1:
            known = all(name in self.constants or not name for name in node.input[1:])
            operation = known and list(self.operations([node], shape))
            if not operation or node.op_type not in CHAIN or node.op_type == "MaxPool":
                break
            found, value = operation + found, node.input[0]
        good = found and found[-1][0] == "Round"
        return value, grid_of(found) if good else None

    def keep(self, node: Any) -> None:
        """A node as it is, on floats."""
        for place, value in enumerate(node.input):
            if value in self.weights:
                node.input[place] = self.weight(value)
            elif value in self.swallowed:
                name, zero = self.eight[value]
                wide = self.add("Cast", [name], f"{name}.float", to=FLOAT)
                node.input[place] = self.add("Sub", [wide, self.offset(zero)], f"{name}.codes")
        self.nodes.append(node)

    # ----------------------------------------------------------------------------- what is replaced

    def layer_of(self, node: Any) -> Stored | None:
        """The layer whose product a node is."""
        second = node.input[1] if len(node.input) > 1 else None
        return self.layers[self.weights[second][0]] if second in self.weights else None

    def replace(self, node: Any) -> None:
        """A product by one of integers where there is a better one; any other node stays."""
        layer = self.layer_of(node)
        if layer is not None:
            before, layer.kernel = (layer.kernel, layer.why), "float"
            layer.why = layer.problem() or self.better(node, layer)
            replaced = layer.kernel != "float"
            if before[0] == "float":  # a layer that is used twice
                layer.kernel, layer.why = before
        if layer is None or not replaced:
            self.keep(node)

    def better(self, node: Any, layer: Stored) -> str:
        """Replace a product by one of integers, or say why not."""
        kind = node.op_type if len(node.input) == 2 else "with bias"
        if kind == "Conv":
            return self.convolution(node, layer)
        if kind not in ("MatMul", "Gemm"):
            return f"no better {kind} of integers"
        turn = any(a.name == "transB" and a.i for a in node.attribute)
        codes, zero = self.codes8(node.input[0], layer)
        weight = self.weight(node.input[1], 1, turn=turn)
        inputs = [codes, weight, self.scalar(zero), self.scalar(0, INT8)]
        sums = self.add("MatMulInteger", inputs, f"{node.output[0]}.sums")
        self.add("Cast", [sums], node.output[0], to=FLOAT)
        layer.kernel = "int8"
        return ""

    def convolution(self, node: Any, layer: Stored) -> str:
        """Replace a convolution and what is behind it by a QLinearConv, or say why not."""
        chain, following = self.chain(node.output[0])
        if following is None:
            return "no single quantizer follows"
        operations = list(self.operations(chain, layer.index))
        whole = len(operations) == len(chain)
        line = line_of(operations, layer, following.inputs) if whole else None
        if line is None:
            return "int8 would not give the same codes"
        codes, zero = self.codes8(node.input[0], layer)
        own, one = node.output[0], self.constant("one", 1.0)
        weight = self.weight(node.input[1], line.sign * line.step, own)
        scale = self.constant(f"{own}.scale", line.scale.ravel())
        bias = self.constant(f"{own}.bias", line.bias.ravel(), INT32)
        inputs = [codes, one, self.scalar(zero), weight, scale, self.scalar(0, INT8)]
        inputs += [one, self.scalar(0), bias]
        name = self.add("QLinearConv", inputs, f"{own}.uint8", **_settings(node))
        name = self.clipped(name, line.bottom, line.top)
        for pool in (each for each in chain if each.op_type == "MaxPool"):
            name = self.add("MaxPool", [name], f"{pool.output[0]}.uint8", **_settings(pool))
        self.eight[chain[-1].output[0]] = name, -following.inputs[0]
        self.swallowed |= {each.output[0] for each in chain}
        layer.kernel = "int8"
        return f"{line.off:.1g} of the sums get the next code" if line.off else ""

    def chain(self, value: str) -> tuple[list, Stored | None]:
        """The nodes from a convolution's output to the next layer's codes, and that layer, if its
        product alone takes them.
        """
        found: list = []
        while value not in self.outputs and len(users := self.users.get(value, ())) == 1:
            node = users[0]
            if found and (following := self.layer_of(node)) and node.input[0] == value:
                good = following.inputs and np.ptp(following.inputs) <= 255
                return found, following if good else None
            known = all(name in self.constants or not name for name in node.input[1:])
            if node.op_type not in CHAIN or node.input[0] != value or not known:
                break
            found.append(node)
            value = node.output[0]
        return found, None

    def operations(self, chain: list, index: np.ndarray) -> Iterator[tuple]:
        """Each node as its kind, its constants, (1, 1) or (C, 1), and its settings; those alone
        that are the same at all places of a channel.
        """
        along = (len(index), *[1] * (index.ndim - 2))
        for node in chain:
            norm = node.op_type == "BatchNormalization"
            shapes = (along, (1, *along), along[:1] if norm else along)
            constants = [self.constants[name] if name else None for name in node.input[1:]]
            if all(each is None or each.size == 1 or each.shape in shapes for each in constants):
                columns = [each if each is None else each.reshape(-1, 1) for each in constants]
                epsilon = {a.name: a.f for a in node.attribute if a.name == "epsilon"}
                yield node.op_type, columns, epsilon


def _settings(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def tidy(model: Any) -> None:
    """Keep what the graph needs: no traces of the exporter, no tensor that is unused, or large and
    the same all over.
    """
    from onnx import helper, numpy_helper

    graph, spread = model.graph, []
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.value_info[:], model.opset_import[:]
    for tensor in kept:
        values = numpy_helper.to_array(tensor) if tensor.data_type == FLOAT else np.arange(2)
        if values.size > 256 and (values == values.flat[0]).all():
            value, shape = f"{tensor.name}.value", f"{tensor.name}.shape"
            graph.initializer.append(numpy_helper.from_array(values.flat[:1].copy(), value))
            graph.initializer.append(numpy_helper.from_array(np.array(values.shape), shape))
            spread.append(helper.make_node("Expand", [value, shape], [tensor.name]))
        else:
            graph.initializer.append(tensor)
    nodes = spread + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for node in graph.node:
        node.name = ""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.ir_version = IR
    model.opset_import.append(helper.make_opsetid("", OPSET))
