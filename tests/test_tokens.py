"""Tokens (N, T, D) of a transformer: every loss of features compares those of all images, each
token with its counterpart, or refuses them.
"""

import pytest
import torch
from torch import nn

from paperlib.losses import OBJECTIVES, attention, hint, kdsvd, nst, objective

FEATURE_LOSSES = [
    name for name, entry in OBJECTIVES.items() if entry.knowledge in ("feature", "relation")
]
SMALL = {"crd": {"negatives": 8, "dim": 4}, "cktf": {"negatives": 8, "dim": 4}, "cc": {"dim": 4}}
LABELS = torch.arange(30) % 5
INDICES = torch.tensor([7, 2, 0, 11, 29, 4])
# What each loss makes of tokens: a map of T positions and D channels, or one long vector.
AS_VECTOR = ("sp", "rkd", "pkt", "cc", "crd")
REFUSED = ("ft",)


def tokens(seed, count=9, width=4):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(6, count, width, dtype=torch.float64, generator=generator) for _ in range(2)
    ]


def value_and_gradients(name, student, teacher):
    layers = tuple(str(k) for k in range(len(student)))
    chosen = objective(name, beta=1.0, gamma=0, layers=layers, **SMALL.get(name, {}))
    fs, ft = (dict(zip(layers, f, strict=True)) for f in (student, teacher))
    loss = chosen.attach(fs, ft, LABELS, 5)
    fs = {layer: f.clone().requires_grad_() for layer, f in fs.items()}
    logits = torch.zeros(6, 5, dtype=torch.float64)
    value = loss((logits, fs), (logits, ft), LABELS[INDICES], INDICES)
    value.backward()
    return value, [f.grad for f in fs.values()]


def as_map(f):
    return f.permute(0, 2, 1)[..., None]


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_tokens_of_every_image_are_compared(name):
    student, teacher = tokens(0), tokens(1)
    if name in REFUSED:
        with pytest.raises(ValueError, match="tokens"):
            value_and_gradients(name, student, teacher)
        return
    value, gradients = value_and_gradients(name, student, teacher)
    # Each image's, and each of its tokens', part in the loss; ReLUs of VID's regressor may be off.
    over = (1, 2) if name == "vid" else 2
    assert all((gradient.abs().sum(over) > 0).all() for gradient in gradients)
    flat = name in AS_VECTOR
    written = [[f.flatten(1) if flat else as_map(f) for f in fs] for fs in (student, teacher)]
    other, others = value_and_gradients(name, *written)
    assert torch.allclose(value, other)
    for gradient, expected in zip(gradients, others, strict=True):
        back = expected.view_as(gradient) if flat else expected[..., 0].mT
        assert torch.allclose(gradient, back)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_tokens_of_other_numbers_and_widths_are_compared_or_refused(name):
    """Never cut, repeated or averaged: a value comes from all of them, or there is none."""
    student, teacher = tokens(0), tokens(1, count=16, width=6)
    try:
        _, gradients = value_and_gradients(name, student, teacher)
    except ValueError:
        assert name not in AS_VECTOR
        return
    assert name in (*AS_VECTOR, "fsp", "fsp_active", "kdsvd", "cktf")
    assert all((gradient.abs().sum(2) > 0).all() for gradient in gradients)


@pytest.mark.parametrize("function", [attention, nst, hint])
def test_functions_take_tokens_as_their_papers_maps(function):
    (fs, _), (ft, _) = tokens(2), tokens(3)
    assert torch.allclose(function(fs, ft), function(as_map(fs), as_map(ft)))
    for wrong in (ft[:, :5], ft[:, :1], as_map(ft)):
        with pytest.raises(ValueError):
            function(fs, wrong)
    with pytest.raises(ValueError):
        hint(fs, ft[..., :1])  # broadcasting would compare each channel with the first
    assert torch.allclose(kdsvd([fs, fs], [ft, ft]), kdsvd([as_map(fs)] * 2, [as_map(ft)] * 2))


def test_a_loss_of_ones_own_sees_the_tokens_as_they_are(monkeypatch):
    from paperlib.losses import Entry

    seen = []
    entry = Entry(
        lambda fs, ft: (seen.append(fs.shape), nn.functional.mse_loss(fs, ft))[1], "feature", "ours"
    )
    monkeypatch.setitem(OBJECTIVES, "own", entry)
    value_and_gradients("own", tokens(0), tokens(1))
    assert seen == [(6, 9, 4)] * 2


@pytest.mark.parametrize("name", [name for name in FEATURE_LOSSES if name not in AS_VECTOR])
def test_tokens_beside_maps_are_compared_by_channel_or_refused(name):
    """Pooled over places a map's rows would meet the first tokens."""
    student, teacher = (
        tokens(0, count=16),
        [f[:, :4, None].reshape(6, 4, 2, -1) for f in tokens(1, 16)],
    )
    try:
        _, gradients = value_and_gradients(name, student, teacher)
    except ValueError:
        return
    assert name in ("fsp", "fsp_active", "kdsvd", "cktf")  # sums over the places of each network
    assert all((gradient.abs().sum(2) > 0).all() for gradient in gradients)
