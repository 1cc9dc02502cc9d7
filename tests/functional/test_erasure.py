import pytest
import torch

from hf_dtl.functional import probe_generalisation


def slow_oracle(reading, labels, classes, ridge):
    """One reading in the primal form: weights of a linear probe from the normal equations, image by image."""
    reading = reading - reading.mean(0)
    reading = reading / reading.square().sum(1).mean().sqrt()
    told = torch.full((len(labels), classes), -1 / classes, dtype=reading.dtype)
    for i, label in enumerate(labels):
        told[i, label] += 1
    half = len(labels) // 2
    total = 0.0
    for a, b in ((range(half), range(half, len(labels))), (range(half, len(labels)), range(half))):
        x, y = reading[list(a)], told[list(a)]
        weights = torch.linalg.inv(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype)) @ x.T @ y
        total += sum(float(reading[i] @ weights @ told[i]) for i in b) / len(b)
    return total / 2 / (1 - 1 / classes)


def batch(seed=0, images=21, classes=3, widths=(5, 40)):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    readings = [torch.randn(images, w, generator=generator, dtype=torch.float64) for w in widths]
    return readings, labels


@pytest.mark.parametrize("ridge", [0.01, 0.1, 1.0])
def test_equals_a_probe_fitted_by_the_normal_equations(ridge):
    readings, labels = batch()
    expected = [slow_oracle(reading, labels, 3, ridge) for reading in readings]
    assert probe_generalisation(readings, labels, 3, ridge=ridge).tolist() == pytest.approx(expected, rel=1e-9)


def test_gradient_is_that_of_finite_differences():
    readings, labels = batch(images=12)
    readings = [reading.requires_grad_() for reading in readings]
    assert torch.autograd.gradcheck(lambda *r: probe_generalisation(r, labels, 3), readings)


def test_size_place_and_rotation_of_a_reading_do_not_matter():
    (reading, _), labels = batch()
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    values = probe_generalisation([reading, 1e-3 * reading, reading + 7, reading @ rotation], labels, 3)
    assert values.tolist() == pytest.approx([values[0].item()] * 4, rel=1e-9)


def test_scale_from_silent_to_told():
    labels = torch.arange(240) % 6
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(240, 8, generator=generator)
    told = torch.nn.functional.one_hot(labels, 6).float()
    values = probe_generalisation([noise, torch.ones(240, 3), told + noise[:, :6] / 2, told], labels, 6, ridge=1e-3)
    assert abs(values[0]) < 0.1 and values[1] == 0
    assert 0.3 < values[2] < 0.9 and values[3] > 0.99


@pytest.mark.parametrize(("images", "ridge"), [(3, 0.1), (8, 0.0), (8, -1.0), (8, float("nan"))])
def test_bad_input_is_refused(images, ridge):
    with pytest.raises(ValueError, match=f"got {images} images and ridge={ridge}"):
        probe_generalisation([torch.zeros(images, 2)], torch.zeros(images, dtype=torch.long), 2, ridge=ridge)
