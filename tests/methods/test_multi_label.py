"""Heads of sigmoids (multi_label_classification): which methods take them, by which losses, how they are judged."""

import copy

import pytest
import torch
from architectures import CONFIGS
from method_checks import build
from torch.nn import functional as F
from toy_tasks import source, target
from transformers import AutoModelForImageClassification

from hf_dtl.audit import accuracy
from hf_dtl.errors import ConfigError
from hf_dtl.functional import classification_loss, distillation
from hf_dtl.methods.registry import find_method, method_names

TAKES = ("bad_teaching", "fine_tune", "neg_grad_plus", "random_label", "retrain", "salun", "scrub")


def tagger():
    config = CONFIGS["vit"]()
    config.problem_type = "multi_label_classification"
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(config).eval()


def test_the_loss_is_that_of_transformers():
    model, images, labels = tagger(), torch.randn(4, 3, 16, 16), torch.tensor([0, 5, 2, 2])
    expected = model(pixel_values=images, labels=F.one_hot(labels, 6).float())
    found = classification_loss(expected.logits, labels, multi_label=True)
    torch.testing.assert_close(found, expected.loss)
    torch.testing.assert_close(classification_loss(expected.logits, labels, multi_label=True, mean=False), 4 * found)


def test_distillation_is_the_divergence_of_each_label():
    student, teacher = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    p, q = (torch.stack([z / 2, -z / 2]).sigmoid() for z in (student, teacher))
    expected = 4 * (q * (q / p).log()).sum(0).mean()
    torch.testing.assert_close(
        distillation(student, teacher, 2.0, multi_label=True).double(), expected, rtol=1e-5, atol=0
    )


def test_accuracy_is_a_share_of_labels():
    model, images = tagger(), source()
    logits = model(pixel_values=images.pixel_values).logits
    expected = ((logits > 0) == F.one_hot(images.labels, 6).bool()).double().mean().item()
    assert accuracy(model, images) == pytest.approx(expected)
    model.config.problem_type = None
    assert accuracy(model, images) != pytest.approx(expected)


@pytest.mark.parametrize("name", method_names())
def test_a_method_keeps_the_sigmoids_or_says_that_it_cannot(name, tmp_path):
    trainer_class = find_method(name)
    if "part" not in trainer_class.config_class.kinds:
        return
    images = (source(), target())
    assert trainer_class.config_class.multi_label == (name in TAKES)
    if name not in TAKES:
        with pytest.raises(ConfigError, match="softmax.* Use random_label"):
            build(
                (trainer_class.config_class, trainer_class),
                tmp_path,
                tagger(),
                forget=images[0],
                retain=images[1],
                **({} if name == "instancewise" else {"target_ce_weight": 1.0}),
            )
        return
    options = {"max_steps": 8, "retain_task": "target", "target_ce_weight": 1.0, "logging_steps": 1}
    model = tagger()
    trainer = build(
        (trainer_class.config_class, trainer_class), tmp_path, copy.deepcopy(model), forget=images[0],
        retain=images[1], **options,
    )  # fmt: skip
    trainer.train()
    assert trainer.export().config.problem_type == "multi_label_classification"
    logged = [log for log in trainer.state.log_history if "target_cross_entropy" in log]
    if logged:
        # of six labels one holds: softmax would begin at log 6, sigmoids at log 2
        assert logged[0]["target_cross_entropy"] < 1.0
