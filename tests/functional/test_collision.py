import itertools
import threading
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from hf_dtl.functional import average_loss, gradient_collision


@pytest.fixture(autouse=True)
def float64_attention():
    """The "eager" attention of transformers computes its softmax in float32, even for a float64 model: torch's own
    unfused kernel stays in float64 and can be differentiated twice. The choice is global, so it is made outside the
    threads."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def vit():
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_labels=5, attn_implementation="sdpa",
    )  # fmt: skip
    return ViTForImageClassification(config)


def resnet():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=5)
    return ResNetForImageClassification(config)


def problem(build, chunks, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    model = build().to(dtype).eval()
    images = torch.randn(chunks, 3, 3, 8, 8, dtype=dtype)
    labels = torch.randint(5, (chunks, 3))
    parameters = [p for p in model.parameters() if p.requires_grad]

    def loss(x, y):
        return F.cross_entropy(model(x).logits, y)

    return [partial(loss, x, y) for x, y in zip(images, labels, strict=True)], parameters


def oracle(losses, parameters, normalize):
    """All ordered pairs, with every chunk's graph alive at once, differentiated twice."""
    flat = []
    for loss in losses:
        g = torch.autograd.grad(loss(), parameters, create_graph=True, materialize_grads=True)
        g = torch.cat([a.reshape(-1) for a in g])
        flat.append(g / g.norm() if normalize else g)
    n = len(flat)
    value = sum(a @ b for a, b in itertools.permutations(flat, 2)) / (n * (n - 1))
    cosine = sum((a @ b) / (a.norm() * b.norm()) for a, b in itertools.permutations(flat, 2)) / (n * (n - 1))
    return value, torch.autograd.grad(value, parameters, materialize_grads=True), cosine


def relative(a, b):
    a, b = (torch.cat([t.reshape(-1) for t in x]) for x in (a, b))
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("chunks", [2, 5])
@pytest.mark.parametrize("build", [vit, resnet])
def test_exact_equals_naive_double_backward(build, chunks, normalize):
    losses, parameters = problem(build, chunks)
    value, gradients, cosine = oracle(losses, parameters, normalize)
    result = gradient_collision(losses, parameters, normalize=normalize)
    assert abs(result.value - value) <= 1e-10 * abs(value)
    assert relative(result.gradients, gradients) < 1e-10
    assert result.mean_cosine.item() == pytest.approx(cosine.item(), rel=1e-10)
    assert result.error == 0
    norms = [
        torch.cat([a.reshape(-1) for a in torch.autograd.grad(loss(), parameters, materialize_grads=True)]).norm()
        for loss in losses
    ]
    assert result.mean_norm.item() == pytest.approx(torch.stack(norms).mean().item(), rel=1e-10)
    assert result.mean_loss.item() == pytest.approx(sum(loss().item() for loss in losses) / chunks, rel=1e-10)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("build", [vit, resnet])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-5), (torch.float32, 3e-2)])
def test_finite_difference_matches_and_says_its_error(build, normalize, dtype, bound):
    losses, parameters = problem(build, 3, dtype)
    exact = gradient_collision(losses, parameters, normalize=normalize)
    before = [p.detach().clone() for p in parameters]
    result = gradient_collision(losses, parameters, normalize=normalize, create="finite_difference")
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True)), (
        "weights must come back bit-identical"
    )
    error = relative(result.gradients, exact.gradients)
    assert error < bound
    # The returned error is an estimate from one chunk: right within an order of magnitude, never absurdly optimistic.
    assert error / 30 < result.error.item() < bound * 30
    assert torch.equal(result.value, exact.value)


def test_finite_difference_restores_weights_when_a_loss_raises():
    losses, parameters = problem(vit, 2)
    before = [p.detach().clone() for p in parameters]
    calls = itertools.count()

    def breaks():
        if next(calls) == 2:  # the first shifted evaluation
            raise RuntimeError("out of memory")
        return losses[0]()

    with pytest.raises(RuntimeError, match="out of memory"):
        gradient_collision([breaks, losses[1]], parameters, create="finite_difference")
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("create", ["exact", "finite_difference"])
def test_two_processes_equal_one(normalize, create):
    """Two threads with a model each stand for two processes; they meet in `reduce`."""
    losses, parameters = problem(vit, 4)
    one = gradient_collision(losses, parameters, normalize=normalize, create=create)
    replicas = [problem(vit, 4) for _ in range(2)]
    barrier, box, results = threading.Barrier(2, timeout=60), {}, {}

    def run(rank):
        def reduce(tensor):
            box[rank] = tensor
            barrier.wait()
            total = box[0] + box[1]
            barrier.wait()
            return total

        mine, weights = replicas[rank]
        results[rank] = gradient_collision(
            mine[2 * rank : 2 * rank + 2], weights, normalize=normalize, create=create, reduce=reduce
        )

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    for result in results.values():
        assert result.value.item() == pytest.approx(one.value.item(), rel=1e-10)
        assert relative(result.gradients, one.gradients) < (1e-10 if create == "exact" else 1e-5)
        assert result.mean_cosine.item() == pytest.approx(one.mean_cosine.item(), rel=1e-9)


def test_constant_number_of_live_graphs_and_linear_calls():
    """Each chunk is evaluated twice, and no chunk's graph survives into the next chunk."""
    import weakref

    torch.manual_seed(0)
    w = torch.randn(6, requires_grad=True)
    alive, most, calls = [], [0], [0]

    def chunk(x):
        def loss():
            calls[0] += 1
            most[0] = max(most[0], sum(ref() is not None for ref in alive))
            hidden = (w * x).tanh()
            alive.append(weakref.ref(hidden))
            return hidden.pow(2).sum()

        return loss

    for n in (3, 9):
        calls[0] = 0
        gradient_collision([chunk(torch.randn(6)) for _ in range(n)], [w])
        assert calls[0] == 2 * n
    assert most[0] <= 1


def test_ngc_is_bounded_below_and_gc_changes_sign_with_opposed_chunks():
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    a = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    losses = [lambda: w @ a + w @ w, lambda: w @ w - w @ a]
    assert gradient_collision(losses, [w]).value.item() == pytest.approx(-14.0)
    assert gradient_collision(losses, [w], normalize=True).value.item() == pytest.approx(-1.0)


def test_average_loss_is_the_plain_gradient():
    losses, parameters = problem(vit, 3)
    mean = sum(loss() for loss in losses) / 3
    result = average_loss(losses, parameters)
    assert relative(result.gradients, torch.autograd.grad(mean, parameters)) < 1e-12
    assert result.value.item() == pytest.approx(mean.item())


@pytest.mark.parametrize(
    ("chunks", "kwargs", "message"),
    [(1, {}, "at least two chunks"), (2, {"create": "magic"}, "magic"), (0, {}, "0 chunks")],
)
def test_bad_input(chunks, kwargs, message):
    losses, parameters = problem(resnet, 2)
    with pytest.raises(ValueError, match=message):
        gradient_collision(losses[:chunks], parameters, **kwargs)
