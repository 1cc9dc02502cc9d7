"""Gradient subspaces against sums over images, hand-computed spectra and what projection promises."""

import copy

import pytest
import torch
from architectures import CONFIGS
from torch import nn
from transformers import AutoModelForImageClassification

from hf_dtl.functional import GradientSubspace
from hf_dtl.functional.layer_inputs import input_rows, projectable, rows_of_an_image, weight_rows

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5, bias=False), (3, 4, 6)),
    "stride": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (3, 4, 9, 7)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=(0, 2), bias=False), (3, 4, 8, 8)),
    "depthwise": (lambda: nn.Conv2d(4, 4, (5, 3), groups=4, padding="same", bias=False), (3, 4, 8, 8)),
    "dilation": (lambda: nn.Conv2d(4, 6, 3, dilation=(2, 1), padding="valid", bias=False), (3, 4, 8, 8)),
    "pointwise": (lambda: nn.Conv2d(4, 6, 1, bias=False), (3, 4, 8, 8)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False), (3, 4, 8, 8)),
    "patches": (lambda: nn.Conv2d(3, 8, 4, stride=4, bias=False), (2, 3, 16, 16)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weight_is_the_output(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    rows, weight = input_rows(layer, x), weight_rows(layer, layer.weight)
    assert rows.numel() == len(x) * rows_of_an_image(layer, x)
    output = layer(x)
    wanted = output.reshape(1, -1, output.shape[-1]) if name == "linear" else output.movedim(1, -1).flatten(0, -2)
    got = (rows @ weight.mT).movedim(0, 1).flatten(1)  # (rows, outputs), groups side by side
    torch.testing.assert_close(got, wanted.reshape(got.shape), rtol=1e-12, atol=1e-12)


def collected(model, images, **options):
    return GradientSubspace.collect(model, images.split(7), **options)


def mlp(width=12, dtype=torch.float64):
    torch.manual_seed(1)
    layers = [nn.Linear(width, width, bias=False) for _ in range(3)]
    return nn.Sequential(*layers).to(dtype)


@pytest.mark.parametrize("name", CONFIGS)
def test_subtraction_gives_the_moments_of_what_is_left(name):
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(CONFIGS[name]()).double()
    images = torch.randn(20, 3, 16, 16, dtype=torch.float64)
    full, forget, retain = (collected(model, x) for x in (images, images[:6], images[6:]))
    left = full - forget
    assert left.images == retain.images == 14 and left.layers == retain.layers
    for layer, moment in retain.moments.items():
        torch.testing.assert_close(left.moments[layer], moment, rtol=1e-6, atol=1e-9 * moment.abs().max().item())
        assert left.traces[layer].sum() == pytest.approx(moment.diagonal(dim1=1, dim2=2).sum().item())
    basis = left.basis("energy", 0.9)
    for layer, module in projectable(model).items():
        if layer not in left.layers:
            continue
        update = torch.randn_like(module.weight)
        assert basis.protected_share(layer, basis.project(layer, update)) < 1e-5
        assert len(basis.ranks[layer]) == (module.groups if isinstance(module, nn.Conv2d) else 1)
        assert basis.negative_mass[layer] < 1e-5


def test_query_key_and_value_share_their_moments():
    model = AutoModelForImageClassification.from_config(CONFIGS["vit"]())
    images = torch.randn(9, 3, 16, 16)
    found = collected(model, images)
    assert found.shared and all(owner in found.moments for owner in found.shared.values())
    assert {name.rsplit(".", 1)[-1] for name in found.shared} <= {
        "key",
        "value",
        "k_proj",
        "v_proj",
        "q_proj",
        "query",
    }
    assert set(found.layers) == set(projectable(model))
    alone = {}

    def keep(name):
        return lambda module, args: alone.setdefault(name, []).append(args[0].detach())

    for name in found.shared:
        model.get_submodule(name).register_forward_pre_hook(keep(name))
    again = collected(model, images)
    for name, owner in again.shared.items():
        x = torch.cat(alone[name]).flatten(0, 1).double()
        torch.testing.assert_close(again.moments[owner][0], x.T @ x, rtol=1e-5, atol=1e-4)


def test_a_layer_that_is_called_twice_counts_both_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x):
            return self.a(self.a(x)) + self.b(x)

    model, x = Twice().double(), torch.randn(20, 4, dtype=torch.float64)
    found = collected(model, x)
    both = torch.cat([x, model.a(x).detach()])
    torch.testing.assert_close(found.moments["a"][0], both.T @ both)
    torch.testing.assert_close(found.moments["b"][0], x.T @ x)


def spectrum_of(sigma):
    """One linear layer whose inputs have these singular values, in a rotated frame."""
    torch.manual_seed(3)
    q, _ = torch.linalg.qr(torch.randn(len(sigma), len(sigma), dtype=torch.float64))
    return collected(nn.Linear(len(sigma), 2, bias=False).double(), torch.diag(torch.tensor(sigma).double()) @ q.T), q


def test_both_criteria_by_hand():
    found, q = spectrum_of([4.0, 2.0, 1.0, 1.0])  # energies 16, 4, 1, 1 of 22; sigmas 4, 2, 1, 1 of 8
    for criterion, threshold, rank in (
        ("energy", 0.7, 1), ("energy", 16.01 / 22, 2), ("energy", 0.92, 3), ("energy", 1.0, 4), ("energy", 20 / 22, 2),
        ("sigma", 0.5, 1), ("sigma", 0.7, 2), ("sigma", 0.76, 3), ("sigma", 0.9, 4), ("sigma", 1.0, 4),
    ):  # fmt: skip
        assert found.basis(criterion, threshold).ranks[""] == [rank], (criterion, threshold)
    assert found.basis("energy", 0.9, dtype=torch.float64).vectors[""].dtype == torch.float64
    assert found.basis("energy", 0.9).vectors[""].dtype == torch.float32
    vectors = found.basis("energy", 0.9).vectors[""][0].double()
    torch.testing.assert_close(vectors @ vectors.T, q[:, :2] @ q[:, :2].T, rtol=1e-5, atol=1e-5)
    ranks = [found.basis("sigma", t).ranks[""][0] for t in torch.linspace(0.01, 1, 50).tolist()]
    assert ranks == sorted(ranks)


def test_a_wide_layer_that_does_not_converge_in_float32_is_solved_in_float64(monkeypatch):
    usual, asked = torch.linalg.eigh, []

    def eigh(matrix):
        asked.append(matrix.dtype)
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")
        return usual(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    x = torch.randn(3, 520, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values, vectors = collected(nn.Linear(520, 2, bias=False).double(), x).spectrum("")
    assert asked == [torch.float32, torch.float64]
    torch.testing.assert_close(vectors[0] * values[0] @ vectors[0].mT, x.T @ x)


def test_projector_is_symmetric_and_idempotent():
    found, _ = spectrum_of([4.0, 2.0, 1.0, 1.0])
    basis = found.basis("energy", 0.9)
    eye = torch.eye(4, dtype=torch.float64)
    projector = basis.project("", eye)
    torch.testing.assert_close(projector, projector.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(projector @ projector, projector, rtol=0, atol=1e-6)
    assert basis.protected_share("", eye[:2]) > 0.5


def test_projected_updates_leave_retained_outputs_where_they_are():
    torch.manual_seed(0)
    model = mlp()
    retained = torch.randn(40, 5, dtype=torch.float64) @ torch.randn(5, 12, dtype=torch.float64)  # a span of 5 of 12
    basis = collected(model, retained).basis("energy", 1.0, dtype=torch.float64)
    assert all(ranks == [5] for ranks in basis.ranks.values())
    before, other = model(retained), torch.randn(8, 12, dtype=torch.float64)
    elsewhere, moved = model(other), copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in projectable(moved).items():
            layer.weight += basis.project(name, torch.randn_like(layer.weight))
    assert (moved(retained) - before).norm() / before.norm() < 1e-5
    assert (moved(other) - elsewhere).norm() / elsewhere.norm() > 0.1


def test_negative_mass_is_told():
    model, x = mlp(), torch.randn(40, 12, dtype=torch.float64)
    full, other = collected(model, x), collected(model, 3 * torch.randn(20, 12, dtype=torch.float64))
    mass = (full - other).basis().negative_mass
    values = torch.linalg.eigvalsh((full - other).moments["0"][0])
    assert (
        mass["0"] == pytest.approx((-values.clamp_max(0).sum() / values.abs().sum()).item(), rel=1e-4)
        and mass["0"] > 0.2
    )


def test_a_sketch_of_wide_inputs():
    torch.manual_seed(0)
    model = mlp(64)
    images = torch.randn(60, 10, dtype=torch.float64) @ torch.randn(10, 64, dtype=torch.float64)
    exact, wide = collected(model, images), collected(model, images, max_width=32, columns=24)
    assert wide.moments["0"].shape == (1, 64, 24)
    a, b = exact.basis("energy", 0.95), wide.basis("energy", 0.95)
    assert a.ranks == b.ranks
    for layer in a.vectors:
        angles = torch.linalg.svdvals(a.vectors[layer][0].T @ b.vectors[layer][0])
        assert angles.min() > 1 - 1e-4
    left = wide - collected(model, images[:20], max_width=32, columns=24)
    again = collected(model, images[20:], max_width=32, columns=24)
    torch.testing.assert_close(left.moments["1"], again.moments["1"], rtol=1e-5, atol=1e-5)
    full_rank = collected(model, torch.randn(200, 64, dtype=torch.float64), max_width=32, columns=24)
    with pytest.raises(ValueError, match="more than the 24 directions of its sketch"):
        full_rank.basis("energy", 0.95)


def test_sums_over_processes():
    model, x = mlp(), torch.randn(28, 12, dtype=torch.float64)
    parts = [collected(model, x[:14]), collected(model, x[14:])]
    whole = collected(model, x)
    other = iter([torch.tensor([14.0]).double(), *parts[1].moments.values(), *parts[1].traces.values()])
    summed = collected(model, x[:14], reduce=lambda t: t + next(other))
    assert summed.images == 28
    for name in whole.moments:
        torch.testing.assert_close(summed.moments[name], whole.moments[name])


def test_saved_and_loaded(tmp_path):
    model, x = mlp(), torch.randn(28, 12, dtype=torch.float64)
    found, path = collected(model, x), tmp_path / "moments.safetensors"
    found.save(path, model="abc")
    again, metadata = GradientSubspace.load(path)
    assert metadata == {"model": "abc"} and again.images == 28 and again.layers == found.layers
    assert [p.name for p in tmp_path.iterdir()] == ["moments.safetensors"]
    assert again.basis().ranks == found.basis().ranks
    left = again - collected(model, x[:10])
    assert left.images == 18


def test_what_cannot_be_used_is_refused(tmp_path):
    model, x = mlp(), torch.randn(28, 12, dtype=torch.float64)
    found = collected(model, x)
    with pytest.raises(ValueError, match="none would be left"):
        found - found
    with pytest.raises(ValueError, match="not of one model.*0"):
        found - collected(mlp(8), x[:5, :8])
    for options, message in (
        ({"criterion": "rank"}, "criterion='rank' is unknown"),
        ({"threshold": 0.0}, "threshold of 0 is 0.0"),
        ({"threshold": float("nan")}, "threshold of 0 is nan"),
        ({"threshold": {"0": 0.5, "1": 0.5}}, "threshold of 2 is None"),
        ({"threshold": {"0": 0.5, "1": 0.5, "2": 0.5, "3": 0.5}}, "no moments: 3"),
    ):
        with pytest.raises(ValueError, match=message):
            found.basis(**options)
    with pytest.raises(ValueError, match="No images"):
        GradientSubspace.collect(model, [])
    x[3, 3] = float("inf")
    with pytest.raises(ValueError, match="not finite: 0, 1, 2"):
        collected(model, x)
    (tmp_path / "other.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        GradientSubspace.load(tmp_path / "other.safetensors")


class _Standardised(nn.Conv2d):
    """A convolution of BiT: its weight is standardised, so gradients of it leave the span of the inputs."""

    def forward(self, input):
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(nn.functional.pad(input, (0, 1, 0, 1)), weight, self.bias)


def test_a_layer_with_a_forward_of_its_own_has_no_moments():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), _Standardised(2, 2, 2), nn.Flatten(), nn.Linear(18, 2))
    assert GradientSubspace.collect(model, [torch.randn(2, 1, 4, 4)]).layers == ["0", "3"]
