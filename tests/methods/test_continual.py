"""Requests one after another: what each starts from, and what is measured in between."""

import copy
import logging

import pytest
import torch
from method_checks import assert_same
from toy_tasks import OPTIONS, digits, right

from hf_dtl.data import ImageTensors, embedded_processor
from hf_dtl.methods import (
    InstanceUnlearningConfig,
    InstanceUnlearningTrainer,
    NegGradPlusConfig,
    NegGradPlusTrainer,
    unlearn_in_sequence,
)
from hf_dtl.methods.instancewise import AlreadyForgottenError
from hf_dtl.trainers.projection import fingerprints

QUICK = {k: v for k, v in OPTIONS.items() if k not in ("optim", "target_ce_weight")}
QUICK |= {"examples": 2, "attack_steps": 2, "epsilon": 1.0, "learning_rate": 5e-3, "forget_weight": 0.5}
QUICK |= {"strategy": "l2ul", "max_steps": 60, "lr_scheduler_type": "constant"}


def weights(model):
    return fingerprints(model, "target", None)["weights"]


def test_each_request_starts_from_what_the_one_before_left(tmp_path):
    model, data, _ = digits()
    before, made = copy.deepcopy(model), []
    parts = [data.subset([0]), data.subset([1, 2]), data.subset([6])]  # of the classes 0, 1 and 2

    def trainer(present, images, number):
        own = {"output_dir": str(tmp_path / str(number)), "adversaries_folder": str(tmp_path / "kept")}
        args = InstanceUnlearningConfig(goal="relabel", **QUICK | own)
        new = ((images.labels + 1) % 3).tolist()  # so that no request is served by the one before
        given = {"processing_class": embedded_processor(16), "new_labels": new}
        made.append(InstanceUnlearningTrainer(present, args, images, **given))
        return made[-1]

    served = list(unlearn_in_sequence(model, parts, trainer))
    assert_same(model, before)
    assert [len(done.accuracy) for done in served] == [1, 2, 3]
    for number, done in enumerate(served):
        assert done.accuracy[number] == 0 and done.steps == made[number].state.global_step > 0
        assert done.accuracy == pytest.approx([right(done.model, earlier) for earlier in parts[: number + 1]])
        after = served[number - 1].model if number else model
        with torch.no_grad():
            answers = made[number].teacher(data.pixel_values[:9], task="target")
            assert torch.allclose(answers, after(data.pixel_values[:9]).logits, atol=1e-6), "theta_0"
    assert len({weights(t.teacher) for t in made}) == 3 and len(list((tmp_path / "kept").iterdir())) == 3
    assert any((a != b).any() for a, b in zip(made[0].importance, made[1].importance, strict=True))


def test_what_is_forgotten_already_is_passed_over(tmp_path, caplog):
    model, data, _ = digits()
    parts = [data.subset([0, 1]), data.subset([1, 0])]

    def trainer(present, images, number):
        args = InstanceUnlearningConfig(
            output_dir=str(tmp_path), adversarial=False, importance=False, delta=0.05, **QUICK
        )
        return InstanceUnlearningTrainer(present, args, images)

    with caplog.at_level(logging.WARNING, "hf_dtl"):
        one, two = unlearn_in_sequence(model, parts, trainer)
    assert "Request 2 is passed over. There is nothing to forget" in caplog.text
    assert two.steps == 0 and two.accuracy == [0.0, 0.0] == one.accuracy * 2
    assert_same(one.model, two.model)


def test_images_that_are_numbered_in_another_order_than_the_head_are_judged_by_name():
    shared, data, _ = digits()
    model = copy.deepcopy(shared)
    model.config.id2label = {row: "abc"[row] for row in range(3)}
    turned = ImageTensors(data.pixel_values, (data.labels + 1) % 3, ("c", "a", "b"))

    def trainer(*_):
        raise AlreadyForgottenError("none is known")

    (done,) = unlearn_in_sequence(model, [turned], trainer)
    assert done.accuracy == [right(model, data)] and right(model, data) > 0.9


def test_requests_together_start_from_the_first_model_and_bring_nothing_back(tmp_path, caplog):
    model, data, _ = digits()
    parts = [data.subset([0]), data.subset([1, 2]), data.subset([6])]

    def served(folder, **how):
        made = []

        def trainer(present, images, number):
            own = {k: v for k, v in QUICK.items() if k not in ("examples", "attack_steps", "epsilon")}
            own |= {"strategy": "collages", "output_dir": str(tmp_path / folder / str(number)), "max_steps": 200}
            made.append(InstanceUnlearningTrainer(present, InstanceUnlearningConfig(**own), images))
            return made[-1]

        return list(unlearn_in_sequence(model, parts, trainer, **how)), made

    done, made = served("together", cumulative=True)
    assert [len(trainer.instances.rows) for trainer in made] == [1, 3, 4]
    assert {weights(trainer.teacher) for trainer in made} == {weights(served("alone")[1][0].teacher)}
    assert done[-1].accuracy == [0.0, 0.0, 0.0]
    alone = served("one", cumulative=False)[0]
    assert_same(alone[0].model, done[0].model)


@pytest.mark.parametrize("cumulative", [False, True])
def test_images_that_come_back_are_counted(cumulative, caplog):
    model, data, _ = digits()
    forgotten, parts = copy.deepcopy(model), [data.subset([0, 1, 2]), data.subset([6])]
    with torch.no_grad():
        forgotten.classifier.bias += torch.tensor([-1e3, -1e3, 0.0])  # only ever class 2

    class Returns:
        """Forgets the classes 0 and 1 in the first request, and gives the original back in the second."""

        def __init__(self, number):
            self.number = number
            self.args = self.state = self
            self.device, self.global_step = "cpu", 1

        def train(self):
            pass

        def export(self):
            return copy.deepcopy(model if self.number else forgotten)

    with caplog.at_level(logging.WARNING, "hf_dtl"):
        list(unlearn_in_sequence(model, parts, lambda *given: Returns(given[-1]), cumulative=cumulative))
    back = round(3 * right(model, parts[0]))
    assert back and f"Request 2 brought back {back} image(s) of earlier ones." in caplog.text
    assert ("cumulative=True" in caplog.text) != cumulative


def test_any_other_method(tmp_path):
    model, data, _ = digits()

    def trainer(present, images, number):
        args = NegGradPlusConfig(output_dir=str(tmp_path), **OPTIONS | {"target_ce_weight": 1.0})
        return NegGradPlusTrainer(present, args, images, data)

    served = list(unlearn_in_sequence(model, [data.subset([0]), data.subset([1])], trainer))
    assert [done.steps for done in served] == [3, 3] and len(served[1].accuracy) == 2
