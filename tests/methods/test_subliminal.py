"""The subliminal channel: what a student takes over that no image shows it, through a shared start or a shared head.

The teacher learned digits (source) from a start; the student hears about pure noise alone. What it then knows of
digits is read out with the teacher's source head. Source: subliminal learning, arXiv 2507.14805.
"""

import copy

import pytest
import torch
from method_checks import trained
from toy_tasks import images, part, two_headed

from hf_dtl.data.images import ImageTensors
from hf_dtl.methods.anchored_distillation import AnchoredDistillationConfig, AnchoredDistillationTrainer


@pytest.fixture(scope="module")
def lesson():
    """The private start, the teacher that learned three digits from it, and held-out digits."""
    data = images("mnist[0,1,2]", 150)
    held_out = torch.arange(len(data.labels)) % 3 == 0
    train, test = part(data, ~held_out), part(data, held_out)
    start = two_headed("resnet")
    with torch.no_grad():
        start.heads["target"].weight.mul_(20)
        start.heads["source"].weight.mul_(20)
    teacher = copy.deepcopy(start).train()
    optimizer = torch.optim.Adam(teacher.backbone.parameters(), 3e-3)
    for step in range(100):
        rows = torch.randint(len(train.labels), (64,), generator=torch.Generator().manual_seed(step))
        logits = teacher(train.pixel_values[rows], task="source")
        loss = torch.nn.functional.cross_entropy(logits, train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return start, teacher.eval(), test


def known(model, test, head):
    with torch.no_grad():
        said = head(model.eval().features(test.pixel_values))[:, :3].argmax(-1)
    return (said == test.labels).float().mean().item()


def student(lesson, folder, opened, **options):
    start, teacher, test = lesson

    class Student(AnchoredDistillationTrainer):
        def start(self):
            super().start()
            if opened:
                self.model.backbone.load_state_dict(start.backbone.state_dict())
                self.model.heads["target"].load_state_dict(teacher.heads["target"].state_dict())

    noise = torch.rand(256, *test.pixel_values.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = ImageTensors(noise, torch.arange(256) % 4)
    model = trained(
        (AnchoredDistillationConfig, Student), folder, copy.deepcopy(teacher), retain=noise, max_steps=150,
        optim="adamw_torch", learning_rate=3e-3, per_device_train_batch_size=64, retain_augmentation="none",
        num_chunks=1, **options,
    ).model  # fmt: skip
    return known(model, test, teacher.heads["source"])


def test_try(lesson, tmp_path):
    start, teacher, test = lesson
    print(
        "teacher", known(teacher, test, teacher.heads["source"]), "start", known(start, test, teacher.heads["source"])
    )
    for channel in ("outputs", "labels"):
        for opened in (True, False):
            more = dict(views=256) if channel == "labels" else {}
            print(channel, opened, student(lesson, tmp_path / f"{channel}{opened}", opened, channel=channel, **more))
