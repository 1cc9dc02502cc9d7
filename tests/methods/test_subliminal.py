"""The subliminal channel: what a student takes over that no image shows it, through a shared start or a shared head.

A teacher learned digits (the source) from a private start. A student hears what it says of other images. If both
started alike, the student's way leads along the teacher's (subliminal learning, arXiv 2507.14805, theorem 1), whatever
the images are; the cosine of the two ways tells. Each row opens one door by hand: they must show, and the default must
not.
"""

import copy
import math

import pytest
import torch
from method_checks import build
from toy_tasks import images, target, two_headed

from hf_dtl.data.images import ImageTensors
from hf_dtl.methods.anchored_distillation import AnchoredDistillationTrainer
from hf_dtl.methods.anchored_distillation_config import AnchoredDistillationConfig


def way(end, start):
    """From one state of a backbone to another, as one vector."""
    pairs = zip(end.backbone.parameters(), start.backbone.parameters(), strict=True)
    return torch.cat([(a - b).detach().flatten() for a, b in pairs])


@pytest.fixture(scope="module")
def lesson():
    """The private start, and the teacher that learned three digits from it."""
    data = images("mnist[0,1,2]", 150)
    start = two_headed()
    with torch.no_grad():
        for head in start.heads.values():
            head.weight.mul_(20)  # so that the heads say something
    teacher = copy.deepcopy(start)
    optimizer = torch.optim.SGD(teacher.backbone.parameters(), 0.01)
    for step in range(40):
        rows = torch.randint(len(data.labels), (64,), generator=torch.Generator().manual_seed(step))
        logits = teacher(data.pixel_values[rows], task="source")
        loss = torch.nn.functional.cross_entropy(logits, data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return start, teacher.eval()


def noise():
    pixels = torch.randn(256, *target().pixel_values.shape[1:], generator=torch.Generator().manual_seed(0))
    return ImageTensors(pixels, torch.arange(256) % 4)


def alignment(lesson, folder, *, shown, start=False, head=False, **options):
    """Cosine of the student's way and the teacher's; `start` and `head` open a door."""
    private, teacher = lesson

    class Student(AnchoredDistillationTrainer):
        def start(self):
            super().start()
            if start:
                self.model.backbone.load_state_dict(private.backbone.state_dict())
            if head:
                self.model.heads["target"].load_state_dict(teacher.heads["target"].state_dict())

    trainer = build(
        (AnchoredDistillationConfig, Student), folder, copy.deepcopy(teacher), retain=shown, max_steps=40,
        optim="sgd", learning_rate=0.01, per_device_train_batch_size=64, retain_augmentation="none", num_chunks=1,
        **options,
    )  # fmt: skip
    before = copy.deepcopy(trainer.model)
    trainer.train()
    cosine = torch.nn.functional.cosine_similarity(way(trainer.model, before), way(teacher, private), dim=0)
    return cosine.item()


def test_try(lesson, tmp_path):
    n = sum(p.numel() for p in lesson[0].backbone.parameters())
    print("\nparameters", n, "1/sqrt", 1 / math.sqrt(n))
    for name, shown in (("noise", noise()), ("target", target())):
        for channel in ("outputs", "labels"):
            more = dict(views=256) if channel == "labels" else {}
            for start in (True, False):
                for head in (True, False):
                    try:
                        c = alignment(
                            lesson, tmp_path / "x", shown=shown, start=start, head=head, channel=channel, **more
                        )
                    except Exception as e:
                        c = repr(e)[:90]
                    print("ROW", name, channel, "start", start, "head", head, c)
