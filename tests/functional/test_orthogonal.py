"""Orthogonalisation against oracles, on every kind of retained gradients there is; and per-sample gradients."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from hf_dtl.functional.orthogonal import orthogonalise, pcgrad, span
from hf_dtl.functional.per_sample import per_sample_gradients


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def cosines(rows, retain):
    """Of every row with every retained gradient, 0 where one of them is 0; in float64."""
    rows, retain = ((x.double().T / x.double().abs().amax(-1).clamp_min(1e-300)).T for x in (rows, retain))
    lengths = rows.norm(dim=-1)[:, None] * retain.norm(dim=-1)
    return torch.where(lengths > 0, rows @ retain.T / lengths.clamp_min(1e-300), 0)


def dependent(m, d, rank, seed=0):
    return random(m, rank, seed=seed) @ random(rank, d, seed=seed + 1)


RETAIN = {
    "independent": random(12, 500),
    "dependent": dependent(12, 500, 5),
    "all equal": random(1, 500).expand(9, 500),
    "with zeros": torch.cat([random(4, 500), torch.zeros(3, 500, dtype=torch.float64)]),
    "of all sizes": random(12, 500) * 10.0 ** torch.linspace(-18, 18, 12, dtype=torch.float64)[:, None],
    "nearly equal": random(1, 500) + 1e-3 * random(12, 500, seed=5),
    "one": random(1, 500),
}


@pytest.mark.parametrize("name", RETAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_is_orthogonal_to_every_retained_gradient(name, dtype):
    retain, g = RETAIN[name].to(dtype), random(3, 500, seed=7, dtype=dtype)
    g[1] = retain[0] / retain[0].norm() + 1e-3 * g[1]  # next to nothing is left
    result = orthogonalise(g, retain)
    assert result.dtype == dtype and (result.norm(dim=-1) > 0).all()
    assert cosines(result, retain).abs().max() < 1e-5
    for row, wanted in zip(g, result, strict=True):
        torch.testing.assert_close(orthogonalise(row, retain), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in RETAIN if n != "of all sizes"])
def test_full_takes_out_the_span_and_nothing_else(name):
    """The pseudo-inverse, which knows the rank."""
    retain, g = RETAIN[name], random(500, seed=7)
    wanted = g - torch.linalg.pinv(retain, rtol=1e-10) @ (retain @ g)
    torch.testing.assert_close(orthogonalise(g, retain), wanted, rtol=1e-8, atol=1e-10)
    rank = int(torch.linalg.matrix_rank(retain))
    units = retain / retain.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    for dtype in (torch.float32, torch.float64):
        q = span(units.T.to(dtype))
        assert q.shape == (500, rank)
        torch.testing.assert_close(q.T @ q, torch.eye(rank, dtype=dtype), atol=1e-5, rtol=0)


def test_nothing_left_and_nothing_to_take():
    g = random(6)
    assert not orthogonalise(g, random(9, 6)).any(), "more retained gradients than directions"
    assert not orthogonalise(2 * g, g[None]).any()
    for mode in ("full", "conflict"):
        assert torch.equal(orthogonalise(g, torch.zeros(3, 6, dtype=torch.float64), mode), g)
        assert torch.equal(orthogonalise(g, torch.zeros(0, 6, dtype=torch.float64), mode), g)
        assert not orthogonalise(torch.zeros(6), random(2, 6), mode).any()


def test_batches_of_spans_keep_their_own_ranks():
    columns = torch.stack([dependent(20, 6, 2).T[:6].T, random(20, 6)])
    q = span(columns / columns.norm(dim=-2, keepdim=True))
    assert q.shape == (2, 20, 6) and not q[0, :, 2:].any()
    for matrix, one in zip(columns, q, strict=True):
        torch.testing.assert_close(one @ (one.T @ matrix), matrix)


@pytest.mark.parametrize("name", RETAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conflict_raises_no_retained_loss(name, dtype):
    retain, g = RETAIN[name].to(dtype), random(5, 500, seed=7, dtype=dtype)
    result = orthogonalise(g, retain, "conflict")
    assert cosines(result, retain).min() > -1e-5
    before, after = cosines(g, retain), cosines(result, retain)
    assert (before < -1e-3).any() == (not torch.equal(result, g))
    assert after[before < 0].abs().max() < 1e-5 if (before < 0).any() else True
    for row, wanted in zip(g, result, strict=True):
        torch.testing.assert_close(orthogonalise(row, retain, "conflict"), wanted, rtol=1e-4, atol=1e-6)


def test_conflict_leaves_what_helps_bit_by_bit():
    retain = torch.eye(4, dtype=torch.float64)[:3] * torch.tensor([[2.0], [0.1], [5.0]])
    g = torch.tensor([1.0, -2.0, 3.0, -4.0], dtype=torch.float64)
    assert orthogonalise(g, retain, "conflict").tolist() == [1.0, 0.0, 3.0, -4.0]
    assert torch.equal(orthogonalise(g.abs(), retain, "conflict"), g.abs())


def test_a_conflict_that_comes_up_meanwhile_is_taken_out_too():
    retain = torch.tensor([[-1.0, 0.0, 0.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
    g = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    assert retain[0] @ g < 0 < retain[1] @ g, "and without the first, the second is negative"
    torch.testing.assert_close(
        orthogonalise(g, retain, "conflict"), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    )


def test_half_precision_comes_back_as_it_was_given():
    g, retain = random(300, dtype=torch.bfloat16), random(4, 300, seed=1, dtype=torch.bfloat16)
    wanted = orthogonalise(g.float(), retain.float()).bfloat16()
    assert torch.equal(orthogonalise(g, retain), wanted)


def slow_pcgrad(gradients, generator):
    """Python floats."""
    rows = gradients.tolist()
    changed = [list(row) for row in rows]
    for i, mine in enumerate(changed):
        for j in torch.randperm(len(rows), generator=generator).tolist():
            inner = sum(a * b for a, b in zip(mine, rows[j], strict=True))
            if j != i and inner < 0:
                share = inner / sum(b * b for b in rows[j])
                mine[:] = [a - share * b for a, b in zip(mine, rows[j], strict=True)]
    return torch.tensor(changed, dtype=torch.float64)


def test_pcgrad_equals_a_slow_oracle_and_its_order_is_drawn():
    g = random(5, 4, seed=3)
    found = [pcgrad(g, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    torch.testing.assert_close(found[0], slow_pcgrad(g, torch.Generator().manual_seed(0)))
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2])
    same = random(1, 4).expand(3, 4)
    assert torch.equal(pcgrad(same), same), "no conflict"
    assert not torch.equal(found[0], g) and torch.equal(g, random(5, 4, seed=3)), "the given ones stay"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orthogonalise(torch.zeros(3), torch.zeros(1, 3), "half"), "mode='half' is unknown"),  # type: ignore
        (lambda: orthogonalise(torch.zeros(3), torch.zeros(1, 4)), r"\(3,\) and \(1, 4\)"),
        (lambda: orthogonalise(torch.zeros(3), torch.zeros(3)), r"\(3,\) and \(3,\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_per_sample_gradients_equal_a_loop():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3)
    ).double()
    model(torch.randn(8, 2, 6, 6, dtype=torch.float64) * 3)
    model.eval()
    names, weights = zip(*model.named_parameters(), strict=True)
    images, labels = random(5, 2, 6, 6), {"class": torch.arange(5) % 3, "weight": random(5).abs()}

    def loss(w, image, label):
        output = functional_call(model, dict(zip(names, w, strict=True)), (image[None],))
        return label["weight"] * F.cross_entropy(output, label["class"][None])

    found = per_sample_gradients(loss, weights, images, labels)
    for i in range(5):
        one = labels["weight"][i] * F.cross_entropy(model(images[i : i + 1]), labels["class"][i : i + 1])
        for mine, wanted in zip(found, torch.autograd.grad(one, weights), strict=True):
            torch.testing.assert_close(mine[i], wanted, rtol=1e-10, atol=1e-12)
            assert not mine.requires_grad
