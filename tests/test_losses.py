"""The losses against slow transcriptions of their formulas."""

import pytest
import torch
from torch.autograd import gradcheck

from paperlib.losses import OBJECTIVES, attention, cross_entropy, kd, objective

G = torch.Generator().manual_seed(0)
ZS, ZT = (torch.randn(6, 5, dtype=torch.float64, generator=G) for _ in range(2))


def test_kd_is_the_written_out_divergence():
    total = 0.0
    for s, t in zip(ZS, ZT, strict=True):
        p, q = torch.exp(t / 3) / torch.exp(t / 3).sum(), torch.exp(s / 3) / torch.exp(s / 3).sum()
        total += sum(float(p[c] * (p[c].log() - q[c].log())) for c in range(5))
    assert kd(ZS, ZT, 3.0).item() == pytest.approx(9 * total / 6)


def test_kd_is_zero_at_the_teacher_and_blind_to_shifts():
    assert kd(ZT, ZT).item() == pytest.approx(0, abs=1e-12)
    assert kd(ZS + 7, ZT - 2).item() == pytest.approx(kd(ZS, ZT).item())
    assert kd(ZS, ZT).item() > 0
    assert gradcheck(lambda z: kd(z, ZT), ZS.clone().requires_grad_())


def test_cross_entropy_of_soft_labels_is_linear_in_them():
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    one = torch.nn.functional.one_hot(labels, 5).double()
    assert cross_entropy(ZS, labels).item() == pytest.approx(cross_entropy(ZS, one).item())
    mixed = 0.3 * one + 0.7 * one.roll(1, 0)
    expected = 0.3 * cross_entropy(ZS, labels) + 0.7 * cross_entropy(ZS, labels.roll(1))
    assert cross_entropy(ZS, mixed).item() == pytest.approx(expected.item())


def test_attention_is_the_written_out_formula():
    fs, ft = (torch.randn(3, c, 4, 5, dtype=torch.float64, generator=G) for c in (2, 6))
    total = 0.0
    for s, t in zip(fs, ft, strict=True):
        ms, mt = ((f**2).sum(0).flatten() / len(f) for f in (s, t))
        ms, mt = ms / (ms**2).sum().sqrt(), mt / (mt**2).sum().sqrt()
        total += float(((ms - mt) ** 2).sum())
    assert attention(fs, ft).item() == pytest.approx(total / (3 * 20))
    assert attention(fs, fs[:, [1, 0]]).item() == pytest.approx(0, abs=1e-15)  # channel order does not matter
    assert attention(3 * fs, ft).item() == pytest.approx(attention(fs, ft).item())  # nor size
    assert gradcheck(lambda f: attention(f, ft), fs.clone().requires_grad_())


def test_objectives_weigh_their_terms():
    feature = {"f0": torch.randn(6, 2, 4, 4), "f1": torch.randn(6, 2, 4, 4), "f2": torch.randn(6, 8)}
    other = {name: torch.randn_like(f) for name, f in feature.items()}
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    student, teacher = (ZS, feature), (ZT, other)
    ce, kl = cross_entropy(ZS, labels), kd(ZS, ZT, 4.0)
    assert torch.isclose(objective("kd")(student, teacher, labels), ce + 2 * kl)
    assert torch.isclose(objective("sqakd")(student, teacher, labels), kl)
    assert torch.isclose(objective("ce")(student, None, labels), ce)
    maps = attention(feature["f1"], other["f1"])  # f0 and the vector are left out
    assert torch.isclose(objective("at")(student, teacher, labels), ce + 1000 * maps)
    assert [name for name, o in OBJECTIVES.items() if not o.needs_teacher] == ["ce"]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="tau"):
        objective("kd", tau=2.0)
    with pytest.raises(ValueError, match="no layers"):
        objective("at", layers=())
    with pytest.raises(ValueError, match="7"):
        cross_entropy(ZS, torch.tensor([0, 1, 2, 3, 4, 7]))
    with pytest.raises(ValueError, match="sum to 1, found 1.19"):
        cross_entropy(ZS, torch.full((6, 5), 0.24))
    with pytest.raises(ValueError, match="ktd"):
        objective("ktd")
    with pytest.raises(ValueError, match="-1"):
        objective("kd", alpha=-1)
    with pytest.raises(ValueError, match="temperature"):
        kd(ZS, ZT, 0.0)
    with pytest.raises(ValueError, match=r"\(6, 5\)"):
        kd(ZS, ZT[:, :4])
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\)"):
        attention(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 5, 5))
