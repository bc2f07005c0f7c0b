"""Networks that somebody names: what is loaded is what was meant, and no file runs code."""

import io
import json
import pickle
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from paperlib.models import build
from paperlib.models.bring import load_weights, network_of, preprocessing_of
from paperlib.models.programs import load_program


class Bomb:
    """Unpickled, it calls."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.exploded = True",)


@pytest.fixture(autouse=True)
def nothing_explodes():
    yield
    import builtins

    assert not hasattr(builtins, "exploded")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    torch.manual_seed(0)
    net, path = Net().eval(), tmp_path_factory.mktemp("programs") / "net.pt2"
    some = torch.export.Dim("images", min=1, max=4096)
    example = (torch.zeros(2, 3, 8, 8),)
    torch.export.save(torch.export.export(net, example, dynamic_shapes=({0: some},)), path)
    return net, path


def test_a_program_gives_what_its_network_gives(program):
    net, path = program
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(network_of(str(path))(x), net(x))


def _rewritten(path, target, change):
    """The archive with the members that `change` gives: name below its folder -> content."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        members = {name: old.read(name) for name in old.namelist()}
        top = next(iter(members)).partition("/")[0]
        inner = {name.partition("/")[2]: content for name, content in members.items()}
        for name, content in change(inner).items():
            new.writestr(f"{top}/{name}", content)
    return target


def _pickled():
    """A file of torch.save that holds a bomb."""
    file = io.BytesIO()
    torch.save(Bomb(), file)
    return file.getvalue()


MODEL, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def graph(edit):
    """Change the program's JSON in place."""

    def change(inner):
        content = json.loads(inner[MODEL])
        edit(content, content["graph_module"]["graph"])
        return inner | {MODEL: json.dumps(content).encode()}

    return change


def pickled_weight(inner):
    config = json.loads(inner[WEIGHTS])
    first = next(iter(config["config"].values()))
    first |= {"use_pickle": True, "tensor_meta": None}
    return inner | {
        WEIGHTS: json.dumps(config).encode(),
        f"data/weights/{first['path_name']}": _pickled(),
    }


def constant(name, content):
    payload = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}

    def change(inner):
        config = json.dumps({"config": {"c": payload}}).encode()
        return inner | {CONSTANTS: config, f"data/constants/{name}": content}

    return change


CODE = "__import__('builtins').__dict__.update(exploded=True)"
ATTACKS = {
    "example inputs": lambda inner: inner | {INPUTS: _pickled()},
    "a pickled weight": pickled_weight,
    "a pickled constant": constant("tensor_0", _pickled()),
    "an object": constant("custom_obj_0", pickle.dumps(Bomb())),
    "an opaque object": constant("opaque_obj_0", pickle.dumps(Bomb())),
    "a library": lambda inner: inner | {"data/aotinductor/model/code.so": b"\x7fELF"},
    "a call": graph(lambda all_, g: g["nodes"][0].update(target="torch.os.system")),
    "a call of Python": graph(lambda all_, g: g["nodes"][0].update(target="_operator.call")),
    "a file": graph(lambda all_, g: g["nodes"][0].update(target="torch.ops.aten.from_file.out")),
    "a guard": graph(lambda all_, g: all_.update(guards_code=[CODE])),
    "an expression": graph(
        lambda all_, g: g["sym_int_values"].update(
            s0={"as_expr": {"expr_str": CODE, "hint": {"as_int": 2}}}
        )
    ),
    "an expression without quotes": graph(
        lambda all_, g: g["sym_int_values"].update(
            s0={"as_expr": {"expr_str": "eval(chr(49))", "hint": None}}
        )
    ),
    "a name that is code": graph(
        lambda all_, g: g["inputs"][-1].update(as_tensor={"name": f"x={CODE}"})
    ),
    "an argument that is code": graph(
        lambda all_, g: all_["graph_module"]["module_call_graph"][0]["signature"].update(
            forward_arg_names=[f"x={CODE}"]
        )
    ),
    "a tree of another type": graph(
        lambda all_, g: all_["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec=json.dumps([1, {"type": "os.system", "context": "null", "children_spec": []}])
        )
    ),
    "its notes": graph(
        lambda all_, g: g["nodes"][0]["metadata"].update(
            source_fn_stack=CODE, nn_module_stack=CODE, torch_fn=CODE
        )
    ),
}
HARMLESS = ("a guard", "its notes")  # what is left out of the archive, and so cannot run


@pytest.mark.parametrize("name", ATTACKS)
def test_a_program_runs_no_code(program, tmp_path, name):
    net, path = program
    attack = _rewritten(path, tmp_path / "attack.pt2", ATTACKS[name])
    if name in HARMLESS:
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(load_program(attack)(x), net(x))
    else:
        with pytest.raises(ValueError, match=r"attack\.pt2"):
            load_program(attack)


def test_a_program_for_one_number_of_images_is_refused(tmp_path):
    path = tmp_path / "two.pt2"
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(2, 3, 8, 8),)), path)
    with pytest.raises(ValueError, match=r"two\.pt2 takes 2 images"):
        load_program(path)


def test_other_files_are_no_programs(tmp_path):
    scripted = tmp_path / "script.pt2"
    torch.jit.script(nn.Linear(2, 2)).save(str(scripted))
    (tmp_path / "bomb.pt2").write_bytes(_pickled())
    (tmp_path / "text.pt2").write_text("no archive")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ValueError, match=path.name):
            network_of(str(path))
    with pytest.raises(FileNotFoundError):
        network_of(str(tmp_path / "gone.pt2"))


def test_weights_that_do_not_fit_are_named(tmp_path):
    net, path = build("resnet8", 4, seed=3), tmp_path / "w.safetensors"
    save_file(net.state_dict(), path)
    found = network_of("resnet8", path, classes=4)
    assert all(map(torch.equal, found.state_dict().values(), net.state_dict().values()))
    for network, named in (
        (build("resnet8", 5), r"\(4,.*not \(5,"),
        (build("resnet20", 4), "missing"),
    ):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(ValueError, match=named):
            load_weights(network, path)
        assert all(torch.equal(before[n], v) for n, v in network.state_dict().items())
    path.write_bytes(_pickled())
    with pytest.raises(ValueError, match=r"w\.safetensors"):
        load_weights(net, path)
    with pytest.raises(FileNotFoundError):
        load_weights(net, tmp_path / "gone.safetensors")


def test_names_of_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Linear(2, 3)\nready = nn.Linear(2, 4)\n"
    )
    assert network_of("my_nets:make").out_features == 3
    assert network_of("my_nets:ready").out_features == 4
    (tmp_path / "script.py").write_text("raise SystemExit(0)")
    for spec in (
        "nope",
        "script:make",
        "my_nets:nope",
        "no_module:make",
        "resnet8",
        "timm:no_such_net",
    ):
        with pytest.raises(ValueError, match=spec.removeprefix("timm:")):
            network_of(spec)


def test_preprocessing_is_timms_own():
    import numpy as np
    import timm
    from PIL import Image

    network = timm.create_model("mobilenetv3_small_050", num_classes=3)
    found = preprocessing_of(network)
    config = timm.data.resolve_model_data_config(network)
    theirs = timm.data.create_transform(**config, is_training=False)
    noise = np.random.default_rng(0).integers(256, size=(200, 260, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (found.mean, found.std))
    ours = (torch.as_tensor(found.transform(picture)) / 255 - mean) / std
    torch.testing.assert_close(ours, theirs(picture))
    with pytest.raises(ValueError, match="mean"):
        preprocessing_of(nn.Linear(2, 2))
    network.pretrained_cfg = {name: config[name] for name in ("std", "input_size")}
    with pytest.raises(ValueError, match="mean"):
        preprocessing_of(network)
    partly = preprocessing_of(network, 0.5)
    assert partly.mean == 0.5 and partly.std == found.std
    assert preprocessing_of(nn.Linear(2, 2), (0.5,), (0.2,), 9).transform(picture).shape == (
        3,
        9,
        9,
    )
