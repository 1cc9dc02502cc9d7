import pytest
import torch

from hf_dtl.functional import class_means, mean_and_scale, nearest_mean, standardised

GENERATOR = torch.Generator().manual_seed(0)
VECTORS = torch.randn(30, 5, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.cat([torch.arange(4), torch.randint(4, (26,), generator=GENERATOR)])


def test_class_means_are_the_means_of_a_loop():
    loop = torch.stack([VECTORS[LABELS == label].mean(0) for label in range(4)])
    torch.testing.assert_close(class_means(VECTORS, LABELS, 4), loop)
    assert class_means(VECTORS, LABELS, 5).isnan().any(1).tolist() == [False] * 4 + [True]


def test_the_linear_classifier_orders_classes_by_distance():
    queries = torch.randn(50, 5, generator=GENERATOR, dtype=torch.float64)
    deviation = VECTORS.std(0, correction=0)
    means = torch.stack([VECTORS[LABELS == label].mean(0) for label in range(4)])
    weight, bias = nearest_mean(VECTORS, LABELS, 4)
    for query, scores in zip(queries, queries @ weight.T + bias, strict=True):
        distances = torch.stack([((query - mean) / deviation).square().sum() for mean in means])
        assert torch.equal(scores.argsort(descending=True), distances.argsort())
        torch.testing.assert_close(scores - scores[0], (distances[0] - distances) / 2)


def test_standardised_vectors_have_deviation_one_whatever_their_unit_and_constants_are_none():
    units = torch.tensor([1.0, 1e30, 1e-26, 1.0, 1.0])
    vectors = ((VECTORS + torch.tensor([0, 0, 0, 900.0, 7])) * units).float()
    vectors[:, 4] = 7
    mean, scale = mean_and_scale(vectors)
    (found,) = standardised(mean, scale, vectors)
    plain = (VECTORS - VECTORS.mean(0)) / VECTORS.std(0, correction=0)
    torch.testing.assert_close(found[:, :3].double(), plain[:, :3], rtol=1e-5, atol=1e-5)
    assert found[:, 3].std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert scale[4] == 0 and not found[:, 4].any()
