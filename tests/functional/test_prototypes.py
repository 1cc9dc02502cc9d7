import pytest
import torch

from hf_dtl.functional import class_means, mean_and_deviation, nearest_mean

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
    deviation = deviation + deviation.mean() / 100 + 1e-6
    means = torch.stack([VECTORS[LABELS == label].mean(0) for label in range(4)])
    weight, bias = nearest_mean(VECTORS, LABELS, 4)
    for query, scores in zip(queries, queries @ weight.T + bias, strict=True):
        distances = torch.stack([((query - mean) / deviation).square().sum() for mean in means])
        assert torch.equal(scores.argsort(descending=True), distances.argsort())
        torch.testing.assert_close(scores - scores[0], (distances[0] - distances) / 2)


def test_standardised_vectors_have_deviation_one_and_constants_stay_small():
    vectors = VECTORS * torch.tensor([1.0, 100.0, 1e-3, 5.0, 0.0]) + 7
    mean, deviation = mean_and_deviation(vectors)
    plain = vectors.std(0, correction=0)
    torch.testing.assert_close(mean, vectors.mean(0))
    torch.testing.assert_close(deviation, plain + plain.mean() / 100 + 1e-6)
    assert ((vectors - mean) / deviation)[:, 1].std(correction=0).item() == pytest.approx(1, abs=0.01)
    assert ((vectors - mean) / deviation)[:, [2, 4]].abs().max() < 0.02
