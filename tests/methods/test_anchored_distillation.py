import method_checks
import pytest
import torch
from method_checks import assert_resumes, assert_split_does_not_matter, assert_trains
from toy_tasks import target, two_headed

from hf_dtl.methods.anchored_distillation import AnchoredDistillationConfig, AnchoredDistillationTrainer

PAIR = (AnchoredDistillationConfig, AnchoredDistillationTrainer)
FEW = dict(views=24, num_chunks=4)


def speaking(name="vit"):
    """A random model whose target head names different classes."""
    model = two_headed(name).eval()
    head = model.heads["target"]
    with torch.no_grad():
        features = model.features(target().pixel_values)
        head.weight.mul_(200)
        head.bias.sub_((features @ head.weight.T).mean(0))
    return model


@pytest.fixture(autouse=True)
def _a_teacher_that_says_something(monkeypatch):
    monkeypatch.setattr(method_checks, "two_headed", speaking)


@pytest.mark.parametrize(
    ("name", "channel"),
    [("vit", "labels"), ("resnet", "labels"), ("vit", "outputs:8"), ("resnet", "outputs"), ("vit", "features:2")],
)
def test_it_trains_resumes_and_does_not_depend_on_the_split(tmp_path, name, channel):
    options = FEW | {"channel": channel}
    assert_trains(PAIR, tmp_path, name, max_steps=2, **options | {"learning_rate": 1e-3})
    assert_split_does_not_matter(PAIR, tmp_path, name, **options | {"learning_rate": 1e-2})
    assert_resumes(PAIR, tmp_path, name, **options | {"learning_rate": 1e-2})
