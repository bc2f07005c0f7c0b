"""The vision transformer, its quantizer, losses and reports: formulas against slow transcriptions,
the network against torch's layer, and a tiny run.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from paperlib.basics.recipe import Recipe
from paperlib.losses import objective
from paperlib.losses.objective import layer_names
from paperlib.models import build
from paperlib.quantizers import LowBit, describe, initialise, quantize, ternary_weight
from paperlib.runs.sweep import sweep
from paperlib.study import plan
from paperlib.study.config import Data
from paperlib.study.store import Store
from related.vit import report, study
from related.vit.method import attention_map, attentive, compared, cover_ratio, dynamic_codes
from related.vit.network import Block

G = torch.Generator().manual_seed(0)
SCORES, OTHERS = 2 * torch.randn(2, 3, 2, 6, 6, generator=G, dtype=torch.float64)
TOKENS, MORE = torch.randn(2, 3, 6, 4, generator=G, dtype=torch.float64)
IMAGES = torch.randn(3, 3, 32, 32, generator=G)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher():
    return build(study.SMALL, 10).eval()


@pytest.fixture(scope="module")
def student(teacher):
    with pytest.warns(UserWarning, match="positions"):
        made = quantize(teacher, study.METHOD, study.TERNARY_BITS, study.ACTIVATION_BITS)
    initialise(made, IMAGES)
    return made.eval()


def rows_of(scores):
    return [row.tolist() for row in scores.flatten(0, -2)]


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def test_losses_are_their_slow_transcriptions():
    found = zip(map(softmax, rows_of(SCORES)), map(softmax, rows_of(OTHERS)), strict=True)
    kls = [sum(t * math.log(t / s) for s, t in zip(*pair, strict=True)) for pair in found]
    assert attention_map(SCORES, OTHERS).item() == pytest.approx(sum(kls) / len(kls))
    assert attentive(SCORES, OTHERS).item() == attention_map(SCORES, OTHERS).item()
    for fs, ft, maps in ((SCORES, OTHERS, "score"), (TOKENS, MORE, "map"), (TOKENS, MORE, "score")):
        pairs = list(zip(fs.flatten().tolist(), ft.flatten().tolist(), strict=True))
        expected = sum((s - t) ** 2 for s, t in pairs) / len(pairs)
        assert attentive(fs, ft, maps).item() == pytest.approx(expected)
    assert attentive(SCORES, OTHERS, weight=3.0).item() == pytest.approx(3 * sum(kls) / len(kls))
    assert attentive(TOKENS, MORE, weight=3.0).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="value"):
        attentive(SCORES, OTHERS, maps="value")
    with pytest.raises(ValueError, match="5"):
        attention_map(SCORES, OTHERS[..., :5])


def test_the_maps_loss_is_finite_where_probabilities_underflow():
    fs = (200 * SCORES.float()).requires_grad_()
    loss = attention_map(fs, -200 * SCORES.float())
    loss.backward()
    assert loss > 100 and torch.isfinite(fs.grad).all()


def test_the_objective_sums_over_layers_and_takes_no_labels():
    layers = ("f1", "score1", "out1")
    own = objective(study.LOSS, layers=layers)
    fs = dict(zip(layers, (TOKENS, SCORES, MORE), strict=True))
    ft = dict(zip(layers, (MORE, OTHERS, TOKENS), strict=True))
    logits, wanted, labels = TOKENS[:, 0], MORE[:, 0], torch.arange(3)
    loss = own.attach(fs, ft, labels, 4)((logits, fs), (wanted, ft), labels)
    terms = sum(attentive(fs[name], ft[name]) for name in layers)
    student, target = logits.log_softmax(1), wanted.softmax(1)
    divergence = (target * (target.log() - student)).sum(1).mean()
    assert loss.item() == pytest.approx((terms + divergence).item())


@pytest.mark.parametrize("top", [1, 5, 6])
def test_the_cover_ratio_is_the_written_out_one(top):
    ratios = []
    for s, t in zip(rows_of(SCORES), rows_of(OTHERS), strict=True):
        order = sorted(range(6), key=lambda token: -s[token])
        wanted = sorted(range(6), key=lambda token: -t[token])[:top]
        ratios.append(max(order.index(token) for token in wanted) / 6)
    found = cover_ratio(SCORES, OTHERS, top)
    assert found.item() == pytest.approx(sum(ratios) / len(ratios))
    assert cover_ratio(SCORES, SCORES, top).item() == pytest.approx((top - 1) / 6)
    with pytest.raises(ValueError, match="7"):
        cover_ratio(SCORES, OTHERS, 7)


def test_dynamic_codes_follow_the_tensor():
    x = torch.tensor([-3.0, 0.4, 1.2], requires_grad=True)
    for factor in (1.0, 1000.0):
        codes, scale = dynamic_codes(factor * x, 8)
        expected = [round(value * 127 / 3) for value in x.tolist()]
        assert codes.tolist() == expected and scale.item() == pytest.approx(factor * 3 / 127)
    codes, scale = dynamic_codes(x, 4)
    (codes * scale).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]
    assert dynamic_codes(torch.zeros(2), 8)[0].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="9"):
        dynamic_codes(x, 9)


def test_a_block_is_the_encoder_layer_of_torch():
    torch.manual_seed(0)
    block = Block(16, 4)
    layer = nn.TransformerEncoderLayer(
        16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    own = block.attention
    parts = {
        "self_attn.out_proj": own.out,
        "linear1": block.wide,
        "linear2": block.narrow,
        "norm1": block.norm1,
        "norm2": block.norm2,
    }
    state = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
    for k in ("weight", "bias"):
        state[f"self_attn.in_proj_{k}"] = torch.cat(
            [getattr(part, k) for part in (own.q, own.k, own.v)]
        )
    layer.load_state_dict(state)
    x = torch.randn(2, 5, 16, generator=G)
    y, attended, scores = block(x)
    assert torch.allclose(y, layer(x), atol=1e-5)
    normed = layer.norm1(x)
    mixed, maps = layer.self_attn(normed, normed, normed, average_attn_weights=False)
    assert torch.allclose(attended, x + mixed, atol=1e-5)
    assert torch.allclose(scores.softmax(-1), maps, atol=1e-6)


def test_features_of_both_sizes():
    for name, (width, depth, heads) in {study.SMALL: (64, 4, 4), study.LARGE: (192, 9, 12)}.items():
        network = build(name, 7).eval()
        logits, features = network.features(IMAGES)
        tokens = (3, 64, width)
        assert logits.shape == (3, 7) and depth == study.BLOCKS[name]
        for kind, shape in {"f": tokens, "out": tokens, "score": (3, heads, 64, 64)}.items():
            assert all(features[f].shape == shape for f in study.layers(name, (kind,)))
        assert layer_names(("vector",), features) == [f"f{depth + 1}"]
        with pytest.raises(ValueError, match="maps"):
            layer_names(("maps",), features)  # scores are no maps of an image
    with pytest.raises(ValueError, match="64"):
        network(torch.zeros(1, 3, 64, 64))


def test_layers_and_products_are_quantized_like_everything_else(student):
    table = describe(student).set_index("layer")
    kept = ["positions", "patches", "head"]
    low = table.drop(kept)
    assert (table.loc[kept, "weight_bits"] == 32).all() and len(low) == 4 * 8
    assert (low["why"] == "low-bit").all() and (low["activation_bits"] == 8).all()
    products = low.index.str.endswith((".scores", ".mix"))
    assert products.sum() == 8 and (low["weight_bits"][~products] == 2).all()
    assert (low["input"] != "negative too").all(), "one grid for inputs of both signs"


def test_quantized_attention_is_the_written_out_one(student):
    """Every factor of every product rounded to its own grid, weights to three values."""
    attention = student.blocks[1].attention
    x = torch.randn(2, 5, 64, generator=G)

    def rounded(x):
        scale = x.abs().max() / 127
        return (x / scale).round() * scale

    def linear(layer, x):
        return rounded(x) @ ternary_weight(layer.weight).T + layer.bias

    with torch.no_grad():
        found, scores = attention(x)
        q, k, v = (
            linear(part, x).view(2, 5, 4, 16).transpose(1, 2)
            for part in (attention.q, attention.k, attention.v)
        )
        expected = rounded(q) @ rounded(k).mT / 4
        assert torch.allclose(scores, expected, atol=1e-5)
        mixed = rounded(expected.softmax(-1)) @ rounded(v)
        y = linear(attention.out, mixed.transpose(1, 2).reshape(2, 5, 64))
    assert torch.allclose(found, y, atol=2e-2 * float(y.abs().max()))


def test_a_network_beside_itself_is_at_no_distance(teacher, student):
    for row in compared(teacher, teacher, IMAGES):
        assert row == {
            "kl": pytest.approx(0, abs=1e-6),
            "cover": pytest.approx(4 / 64),
            "output": 0,
        }
    assert all(row["kl"] > 0 < row["output"] for row in compared(student, teacher, IMAGES))
    assert all(m.ready for m in student.modules() if isinstance(m, LowBit))


def test_the_runs_and_their_table(tmp_path, monkeypatch):
    one = Recipe(1, 20, 1e-3, 0.0, threads=1)
    setup = replace(
        study.setup_of("quick"),
        data=Data("digits", train=40, test=20),
        teacher_data=None,
        teacher_recipe=one,
        student_recipe=one,
        seeds=(0, 1),
    )
    for module in (study, report):
        monkeypatch.setattr(module, "setup_of", lambda profile: setup)
    few = (study.LOGITS, study.BASELINE, "states + maps + outputs")
    monkeypatch.setattr(study, "ARMS", {arm: study.ARMS[arm] for arm in few})
    store = Store("quick", root=tmp_path)
    sweep(plan.runs_of("quick", "vit", store), store, jobs=1)
    table, layers = report.vit_table(store), report.layers_table(store)
    assert list(table["arm"]) == list(few) and (table["n"] == 2).all()
    assert len(layers) == 4 * (1 + 3) and layers["cover"].between(4 / 64, 1).all()
    rows, after = table.set_index("arm"), layers[layers["arm"] == few[2]]
    assert rows.loc[few[2], "kl"] == pytest.approx(after["kl"].mean())
    assert few[2] in report.headline(table)
    assert len(report.vit_figure(table, layers).axes) == 3
