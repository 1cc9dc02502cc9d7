"""What every method must hold, as functions that a method's own tests call."""

import copy

import torch
from toy_tasks import OPTIONS, digits, part, source, target, two_headed
from transformers import AutoModelForImageClassification, TrainerCallback


def build(pair, folder, model=None, callbacks=None, forget=None, retain=None, **options):
    """A trainer of `pair`, a (config class, trainer class), on the toy tasks or on the images given."""
    config_class, trainer_class = pair
    args = config_class(output_dir=str(folder), **OPTIONS | options)
    return trainer_class(
        model=two_headed() if model is None else model,
        args=args,
        forget_dataset=forget or source(),
        retain_dataset=retain or target(),
        callbacks=callbacks,
    )


def forget_one(pair, folder, **options):
    """A trainer on the model of `toy_tasks.digits`, which has one head, that is to forget one digit of three."""
    model, data, _ = digits()
    return build(
        pair, folder, copy.deepcopy(model), None, part(data, data.labels == 1), part(data, data.labels != 1), **options
    )


def trained(*args, **kwargs):
    trainer = build(*args, **kwargs)
    trainer.train()
    return trainer


def assert_same(a, b, tolerance=0.0):
    """Equal states, or of a relative difference below `tolerance`."""
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    if not tolerance:
        different = [name for name in a if not torch.equal(a[name], b[name])]
        assert not different, different
    x, y = (torch.cat([v.ravel().double() for v in state.values()]) for state in (a, b))
    assert torch.isfinite(x).all() and (x - y).norm() / y.norm() <= tolerance


def assert_split_does_not_matter(pair, folder, name="vit", tolerance=1e-5, **options):
    """One micro-batch of four chunks, or two of two, which is what two processes see."""
    options = dict(max_steps=2) | options
    one = trained(pair, folder, model=two_headed(name), per_device_train_batch_size=32, **options)
    two = trained(
        pair, folder, model=two_headed(name), per_device_train_batch_size=16, gradient_accumulation_steps=2, **options
    )
    assert_same(two.model, one.model, tolerance)
    return one


def assert_resumes(pair, folder, name="vit", **options):
    """Interrupted after step 2 of 4, in a new trainer on the model that the first one was given."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    options = dict(max_steps=4, save_strategy="steps", save_steps=1, lr_scheduler_type="linear") | options
    whole = trained(pair, folder / "whole", model=two_headed(name), **options)
    trained(pair, folder / "cut", model=two_headed(name), callbacks=[Stop()], **options)
    resumed = build(pair, folder / "cut", model=two_headed(name), **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert_same(resumed.model, whole.model)
    assert_same(resumed.teacher, whole.teacher)


def assert_trains(pair, folder, name, **options):
    """Finite weights that moved, an untouched source head, an export that loads and holds no other head."""
    start = two_headed(name)
    trainer = trained(pair, folder, model=copy.deepcopy(start), **options)
    assert all(torch.isfinite(v).all() for v in trainer.model.state_dict().values())
    assert any(
        not torch.equal(a, b)
        for a, b in zip(trainer.model.backbone.parameters(), start.backbone.parameters(), strict=True)
    )
    assert_same(trainer.model.heads["source"], start.heads["source"])
    assert_same(trainer.teacher, start)
    trainer.save_model(folder / "scrubbed")
    loaded = AutoModelForImageClassification.from_pretrained(folder / "scrubbed").eval()
    with torch.no_grad():
        x = target().pixel_values[:4]
        assert torch.allclose(loaded(x).logits, trainer.model.eval()(x, task="target"), atol=1e-5)
    logs = [entry for entry in trainer.state.log_history if "retain_loss" in entry]
    assert len(logs) == trainer.args.max_steps
    return trainer, logs
