"""A small model, images that it knows, and quick options of instance-wise unlearning."""

from toy_tasks import OPTIONS, source, two_headed

from hf_dtl.data import ImageTensors, embedded_processor
from hf_dtl.methods import InstanceUnlearningConfig, InstanceUnlearningTrainer
from hf_dtl.trainers.instances import predict

QUICK = {k: v for k, v in OPTIONS.items() if k not in ("optim", "target_ce_weight", "learning_rate")}
QUICK |= {
    "strategy": "l2ul",
    "examples": 3,
    "attack_steps": 3,
    "epsilon": 1.0,
    "step_size": 0.3,
    "per_device_train_batch_size": 8,
}
PLAIN = {"adversarial": False, "importance": False}
NORMALISED = embedded_processor(size=16)


def one_headed(name="vit"):
    model = two_headed(name)
    model.remove_head("target")
    return model


def known(model, count=7, task="source"):
    """Images of an untrained model that it names as they are labelled."""
    pixels = source().pixel_values[:count].clone()
    return ImageTensors(pixels, predict(model, pixels, task))


def build(folder, model=None, forget=None, *, processor=NORMALISED, callbacks=None, retain=None, **options):
    given = {name: options.pop(name) for name in ("new_labels", "rows") if name in options}
    model = one_headed() if model is None else model
    own = {} if not hasattr(model, "heads") else {"forget_task": "source", "retain_task": "source"}
    args = InstanceUnlearningConfig(output_dir=str(folder), **QUICK | own | options)
    forget = known(model) if forget is None else forget
    return InstanceUnlearningTrainer(
        model, args, forget, retain, processing_class=processor, callbacks=callbacks, **given
    )
