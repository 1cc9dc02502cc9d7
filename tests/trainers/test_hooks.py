"""What a subclass of a trainer overrides: it has its effect, or is refused when the trainer is made."""

import pytest
import torch
from trainer_toys import NAMES, PROCESSOR, model, table
from transformers import Trainer

import hf_dtl
from hf_dtl.errors import ConfigError


def trainer(tmp_path, *parents, **own):
    kind = type("Own", (*parents, hf_dtl.FineTuneTrainer), own)
    args = hf_dtl.FineTuneConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=2, learning_rate=1e-3
    )
    data = {"forget_dataset": table([0, 1]), "retain_dataset": table([1, 2])}
    return kind(model(NAMES).export("own"), args, **data, processing_class=PROCESSOR)


def anything(self, *args, **kwargs):
    raise AssertionError("training must not come to this")


@pytest.mark.parametrize("name", ["compute_loss", "compute_loss_context_manager", "_get_train_sampler"])
def test_a_hook_that_training_would_pass_over_is_refused(tmp_path, name):
    for parents, own in (((), {name: anything}), ((type("Mixed", (), {name: anything}),), {})):
        with pytest.raises(ConfigError, match=f"Own overrides {name}, which training does not call.*retention"):
            trainer(tmp_path, *parents, **own)


def test_a_hook_is_taken_with_what_calls_it(tmp_path):
    """Whoever writes the whole step may write its loss apart."""

    def step(self, model, inputs, num_items_in_batch=None):
        loss = self.compute_loss(model, inputs)
        self.accelerator.backward(loss)
        seen.append(loss.item())
        return loss.detach()

    def loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        pixels, labels = (inputs["retain"][name].flatten(0, 1) for name in ("pixel_values", "labels"))
        return torch.nn.functional.cross_entropy(model(pixels, task=self.retain_task), labels)

    seen = []
    trainer(tmp_path, training_step=step, compute_loss=loss).train()
    assert len(seen) == 2 and all(seen)


@pytest.mark.parametrize("calls_ours", [True, False])
def test_weights_are_corrected_whoever_makes_the_optimizer(tmp_path, calls_ours):
    """As projections must be, or a method would be another one."""

    def create(self, *args):
        if calls_ours:
            return super(hf_dtl.FineTuneTrainer, self).create_optimizer(*args)
        self.optimizer = torch.optim.SGD(self.trained, 1e-3)
        return self.optimizer

    seen = []
    corrections = {name: lambda self, name=name: seen.append(name) for name in ("adjust_gradients", "constrain")}
    own = trainer(tmp_path, create_optimizer=create, **corrections)
    assert isinstance(own, Trainer)
    own.train()
    assert seen == ["adjust_gradients", "constrain"] * 2
