"""Networks that `torch.export.save` wrote (.pt2), loaded so that no file can run code.

torch's loader trusts its file: it unpickles example inputs and some tensors, looks functions up by
name, and evaluates expressions and guards as Python. So the archive is read first. What may be in
it is said here; everything else is refused.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..basics.checks import require

# Members of an archive below its one folder. Compiled code, and objects of other classes, are not.
MEMBERS = re.compile(
    r"models/\w+\.json|data/(weights|constants)/\w+(_config\.json)?|data/sample_inputs/\w+\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
)
OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+"  # from_file writes files
    r"|_operator\.(add|sub|mul|neg|pow|floordiv|truediv|mod|eq|ne|lt|le|gt|ge|getitem)"
    r"|torch\.(sym_(int|float|max|min|not)|_sym_sqrt)|torch\.ops\.higher_order\.wrap_with_set_grad_enabled"
)
NAMES = re.compile(r"[\w.:/ -]*")  # of tensors, parameters and modules
SYMBOLS = re.compile(
    r"[suz]f?\d+|Mod|PythonMod|FloorDiv|CleanDiv|CeilToInt|FloorToInt|Max|Min|Pow|Eq|Ne|Le|Lt|Ge|Gt"
    r"|true|false|And|Or|Not|Add|Mul|Integer|Rational|Symbol|TruncToInt|IntTrueDiv|ToFloat"
)
TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
# The program's own notes, of which nothing is needed to run it.
NOTES = ("metadata", "guards_code", "torch_version", "treespec_namedtuple_fields")


def load_program(path: str | Path) -> nn.Module:
    """The network in an archive of `torch.export.save`, in the mode in which it was exported.

    Raises ValueError, naming the member, for an archive that holds anything which torch would
    unpickle or run as Python, for a file that is none, and for a network that was exported for one
    number of images; FileNotFoundError if it is not there.

    >>> import tempfile
    >>> file, net = Path(tempfile.mkdtemp(), "net.pt2"), nn.Linear(3, 2)
    >>> some = torch.export.Dim("images", min=1)
    >>> made = torch.export.export(net, (torch.ones(2, 3),), dynamic_shapes=({0: some},))
    >>> torch.export.save(made, file)
    >>> torch.equal(load_program(file)(torch.ones(5, 3)), net(torch.ones(5, 3)))
    True
    """
    try:
        content = _harmless(Path(path))
        program = torch.export.load(io.BytesIO(content))
    except (FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:  # what another file makes zip, json and torch raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no program that can be trusted: {reason:.300}") from error
    inputs = program.graph_signature.user_inputs
    for node in (node for node in program.graph.nodes if node.name in inputs):
        images = node.meta["val"].shape[0]
        free = 'export it with dynamic_shapes=({0: torch.export.Dim("images")},)'
        require(not isinstance(images, int), f"{path} takes {images} images and no others: {free}")
    return program.module()


def _harmless(path: Path) -> bytes:
    """The archive again, with nothing in it but what was looked at."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(made, "w") as kept:
        for member in archive.namelist():
            inner = member.partition("/")[2]
            require(MEMBERS.fullmatch(inner), f"it holds {member!r}")
            content = archive.read(member)
            if inner.startswith("models/"):
                content = json.dumps(_checked(json.loads(content), ())).encode()
            elif inner.endswith("_config.json"):
                _check_payloads(json.loads(content), archive, member)
            elif inner.endswith(".pt"):
                torch.load(io.BytesIO(content), weights_only=True)
            kept.writestr(zipfile.ZipInfo(member), content)
    return made.getvalue()


def _check_payloads(config: dict, archive: zipfile.ZipFile, member: str) -> None:
    """Every tensor is raw bytes, or can be read with `weights_only`; nothing else is there."""
    for name, payload in config["config"].items():
        place = f"{member.rpartition('/')[0]}/{payload['path_name']}"
        known = re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"])
        require(known, f"{name!r} is an object in {place!r}")
        if payload["use_pickle"]:
            torch.load(io.BytesIO(archive.read(place)), weights_only=True)


def _checked(part: Any, path: tuple[str, ...]) -> Any:
    """The graph without notes. Raises ValueError for a text in it that is not what its place has:
    torch makes code of some.
    """
    if isinstance(part, dict):
        return {key: _inner(key, value, path) for key, value in part.items()}
    if isinstance(part, list):
        return [_checked(each, path) for each in part]
    if isinstance(part, str):
        require(NAMES.fullmatch(part), f"it has the text {part!r:.80} in {'.'.join(path)}")
    return part


def _inner(key: str, value: Any, path: tuple[str, ...]) -> Any:
    require(NAMES.fullmatch(key), f"it has the name {key!r:.80} in {'.'.join(path)}")
    if key in NOTES:
        return [] if isinstance(value, list) else "" if isinstance(value, str) else {}
    if key == "target" and isinstance(value, str):
        inputs = OPERATORS.fullmatch(value)
        known = inputs or (path[-1:] == ("input_specs",) or "signature" in path)
        require(known and NAMES.fullmatch(value), f"it calls {value!r:.80}")
    elif key == "expr_str":
        _check_expression(value)
    elif key in ("in_spec", "out_spec") and isinstance(value, str):
        _check_tree(json.loads(value))
    else:
        return _checked(value, (*path, key))
    return value


def _check_expression(text: str) -> None:
    """Arithmetic of symbols: sympy evaluates it as Python."""
    allowed = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.operator)
    allowed += (ast.unaryop, ast.cmpop, ast.boolop, ast.Load, ast.Call, ast.keyword)
    for node in ast.walk(ast.parse(text, mode="eval")):
        word = node.id if isinstance(node, ast.Name) else getattr(node, "value", None)
        named = isinstance(node, ast.Name | ast.Constant) and isinstance(word, str)
        number = isinstance(node, ast.Constant) and isinstance(word, int | float)
        good = SYMBOLS.fullmatch(word) if named else number or isinstance(node, allowed)
        require(good, f"it has the expression {text!r:.80}")


def _check_tree(tree: Any) -> None:
    """The form of inputs and outputs: containers of Python and nothing else."""
    for node in _nodes(tree[1]):
        require(node["type"] in TREES, f"it has inputs of the type {node['type']!r:.80}")
        context = json.loads(node["context"]) if isinstance(node["context"], str) else None
        plain = context is None or all(isinstance(key, str | int) for key in context)
        require(plain, f"it has inputs of the form {node['context']!r:.80}")


def _nodes(tree: dict) -> Iterator[dict]:
    yield tree
    for child in tree["children_spec"]:
        yield from _nodes(child)
