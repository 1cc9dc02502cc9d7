import copy

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from toy_tasks import images, two_headed

from hf_dtl.data import ImageTensors
from hf_dtl.trainers.training import _ClassifierTrainer, fine_tune, fit_head

CPU = torch.device("cpu")


def accuracy(model, data, task):
    with torch.no_grad():
        return (model.eval()(data.pixel_values, task=task).argmax(-1) == data.labels).double().mean().item()


def test_fitted_head_equals_logistic_regression_on_standardised_features():
    model, data = two_headed("resnet"), images("mnist[0,1,2,3,4,5]")
    before = [p.clone() for n, p in model.named_parameters() if not n.startswith("heads.source")]
    fit_head(model, "source", data, device=CPU)
    with torch.no_grad():
        x = model.eval().features(data.pixel_values).double()
        logits = model(data.pixel_values, task="source")
    deviation = x.std(0, correction=0)
    x = (x - x.mean(0)) / torch.where(deviation > 0, deviation, 1)  # a random ReLU network has dead features
    oracle = LogisticRegression(max_iter=1000).fit(x.numpy(), data.labels.numpy())
    expected = torch.from_numpy(oracle.predict_proba(x.numpy()))
    assert torch.allclose(logits.double().softmax(-1), expected, atol=1e-3)
    after = [p for n, p in model.named_parameters() if not n.startswith("heads.source")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "only that head changes"


def test_two_classes_and_a_limit():
    data = images("mnist[0,1]")
    model = two_headed()
    model.add_head("pair", ["0", "1"])
    fit_head(model, "pair", data, device=CPU, limit=30)
    assert accuracy(model, data, "pair") > 0.8
    flipped = ImageTensors(data.pixel_values, 1 - data.labels)
    assert accuracy(model, flipped, "pair") < 0.2


def test_fine_tuning_transforms_its_training_images_as_asked(tmp_path):
    data, seen = images("mnist[0,1,2,3,4,5]"), {}
    for augmentation in ("none", "affine", "affine_flip"):
        model, batches = two_headed().export("source"), []
        hook = model.register_forward_pre_hook(
            lambda _, args, kwargs, batches=batches: batches.append(kwargs["pixel_values"]), with_kwargs=True
        )
        options = dict(per_device_train_batch_size=len(data.labels), max_steps=1, use_cpu=True, seed=1)
        trained = fine_tune(model, data, tmp_path / augmentation, "fit", augmentation=augmentation, **options)
        hook.remove()
        assert not trained.training
        (seen[augmentation],) = batches
    plain = seen["none"]
    sums = [sorted(x.sum((1, 2, 3)).tolist()) for x in (plain, data.pixel_values)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-4), "every image once, as it is"
    for augmentation in ("affine", "affine_flip"):
        assert seen[augmentation].shape == plain.shape
        same = [torch.allclose(a, b) for a, b in zip(seen[augmentation], plain, strict=True)]
        assert sum(same) < 0.05 * len(same)
    assert not torch.equal(seen["affine"], seen["affine_flip"])


def test_an_interrupted_fine_tuning_goes_on_with_the_weights_that_it_had(tmp_path, monkeypatch):
    """ViT's layers have other names in a saved model than in memory."""
    data, options = images("mnist[0,1,2,3,4,5]"), dict(per_device_train_batch_size=8, max_steps=6, save_steps=2)
    options |= dict(learning_rate=1e-2, use_cpu=True, seed=1)
    given = two_headed().export("source")
    assert any(name.startswith("vit.layers.0.") for name in given.state_dict())
    whole = fine_tune(copy.deepcopy(given), data, tmp_path / "whole", "fit", **options)
    step = _ClassifierTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_ClassifierTrainer, "training_step", interrupted)
        fine_tune(copy.deepcopy(given), data, tmp_path / "cut", "fit", **options)
    resumed = fine_tune(copy.deepcopy(given), data, tmp_path / "cut", "fit", **options)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert not torch.equal(given.vit.layers[0].mlp.fc1.weight, resumed.vit.layers[0].mlp.fc1.weight)
