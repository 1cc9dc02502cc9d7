"""Multi-task unlearning: which pairs count, what an update may change, and the strategies against sums by hand."""

import copy

import pytest
import torch
from method_checks import assert_same
from multitask_toys import FULL, PARTIAL, ROWS, TASKS, Toy, build, fresh, learned, logged, toy
from torch.nn import functional as F
from transformers import TrainerCallback

from hf_dtl.functional.orthogonal import orthogonalise, pcgrad
from hf_dtl.functional.pair_losses import pair_forgetting
from hf_dtl.methods.task_stopping import task_scores
from hf_dtl.models.heads import MultiHeadClassifier

STRATEGIES = ["interference_aware", "fine_tune", "neg_grad_plus", "scrub", "salun", "pcgrad", "orthograd"]
PLAIN = {"task_projection": False}
# every image of either stream in one step, nothing clipped: a sum by hand is short
WHOLE = {"max_steps": 1, "per_device_train_batch_size": 12, "max_grad_norm": 0.0, "learning_rate": 0.1}


def whole(folder, forget=PARTIAL, strategy="interference_aware", model=None, data=None, **options):
    retained = 48 if forget is PARTIAL else 36
    options = {"per_device_retain_batch_size": retained, "strategy": strategy} | WHOLE | options
    return build(folder, forget, model, data, **options)


def one_loss(outputs, labels, task, row):
    """Cross-entropy, or squared error in deviations, of one pair."""
    if task == "size":
        scale = toy().labels["size"].double().std(correction=0)
        return ((outputs[task][row, 0] - labels[task][row]) / scale) ** 2
    return F.cross_entropy(outputs[task][row : row + 1], labels[task][row : row + 1])


def by_hand(model, data, pairs, images, tasks=3):
    """Mean over images of the sum of their pairs' losses, divided by the number of tasks."""
    outputs = model(data.pixel_values)
    return sum(one_loss(outputs, data.labels, task, row) for row, task in pairs) / (images * tasks)


def kept_pairs(forget):
    forgotten = TASKS if forget is FULL else ("shape",)
    return [(row, task) for row in range(48) for task in TASKS if row not in ROWS or task not in forgotten]


def forget_pairs(forget):
    return [(row, task) for row in ROWS for task in (TASKS if forget is FULL else ("shape",))]


# Which pairs count ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forget", [PARTIAL, FULL])
def test_the_losses_are_those_of_the_pairs(tmp_path, forget):
    t = whole(tmp_path, forget, "neg_grad_plus")
    t.train()
    found = logged(t)
    kept = by_hand(t.teacher, toy(), kept_pairs(forget), 48 if forget is PARTIAL else 36)
    lost = by_hand(t.teacher, toy(), forget_pairs(forget), len(ROWS), 3 if forget is FULL else 1)
    assert found["retain_loss"].item() == pytest.approx(kept.item(), rel=1e-5)
    assert found["disposal_value"].item() == pytest.approx(-lost.item(), rel=1e-5)
    assert found["source_loss"].item() == pytest.approx(lost.item(), rel=1e-5)


def test_in_partial_mode_an_image_to_forget_is_retained_for_its_other_tasks(tmp_path):
    """Not a flag, but the loss: it hears of the images' other labels, and of nothing that is to be forgotten."""

    def retention(forget, **changed):
        data = Toy(toy().pixel_values.clone(), {t: v.clone() for t, v in toy().labels.items()})
        for task, value in changed.items():
            if task == "images":
                data.pixel_values[list(ROWS)] = value
            else:
                data.labels[task][list(ROWS)] = value
        t = whole(tmp_path, forget, "fine_tune", data=data)
        t.train()
        return logged(t)["retain_loss"].item()

    same = retention(PARTIAL)
    assert retention(PARTIAL, side=1) != pytest.approx(same, abs=1e-4)
    assert retention(PARTIAL, images=0.0) != pytest.approx(same, abs=1e-4)
    assert retention(PARTIAL, shape=1) == pytest.approx(same, abs=1e-6)
    assert retention(FULL, side=1, images=torch.nan) == pytest.approx(retention(FULL), abs=1e-6)


@pytest.mark.parametrize("strategy", ["retrain", "fine_tune"])
def test_what_is_to_be_forgotten_has_no_part_in_retraining(tmp_path, strategy):
    data = Toy(toy().pixel_values.clone(), toy().labels)
    data.pixel_values[list(ROWS)] = torch.nan
    models = []
    for images in (toy(), data):
        t = build(tmp_path, FULL, data=images, strategy=strategy)
        t.train()
        models.append(t.model)
    assert_same(*models)


def test_retraining_forgets_the_given_weights(tmp_path):
    states = []
    for model in (fresh(), learned()):
        t = build(tmp_path, model=model, strategy="retrain", max_steps=1)
        for mine, given in zip(t.model.parameters(), t.teacher.parameters(), strict=True):
            assert mine.dim() < 2 or not torch.equal(mine, given)
        t.train()
        states.append(t.model)
    assert_same(*states)


# What an update may change --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_heads_of_untouched_tasks_stay_bit_identical(tmp_path, strategy):
    options = {"optim": "adamw_torch", "weight_decay": 0.5, "learning_rate": 1e-2, "min_phase": 1, "max_until": 1.0}
    t = build(tmp_path, model=learned(), strategy=strategy, max_steps=2, **options)
    t.train()
    for task in ("side", "size"):
        assert_same(t.model.heads[task], t.teacher.heads[task])
    assert not torch.equal(t.model.heads["shape"].weight, t.teacher.heads["shape"].weight)
    pairs = zip(t.model.backbone.parameters(), t.teacher.backbone.parameters(), strict=True)
    assert any(not torch.equal(mine, given) for mine, given in pairs)


@pytest.mark.parametrize(
    "options",
    [
        {"optim_args": "momentum=0.9", "learning_rate": 1.0},
        {"optim": "adamw_torch", "weight_decay": 0.5, "learning_rate": 3e-2},
    ],
)
def test_the_final_update_respects_the_task_projection(tmp_path, options):
    """Its columns are orthogonal to the untouched tasks' output gradients, gathered anew from the given model."""
    t = build(tmp_path, model=learned(), max_steps=3, untouched_share=0.8, **options)
    t.train()
    given = dict(t.teacher.named_modules())
    t.model, mine = t.teacher, t.model  # measured on the model as it was given
    found = t._output_moments(t.train_dataset.retain, ["side", "size"])
    t.model = mine
    checked = 0
    for name in t.subspace.vectors:
        layer = mine.get_submodule(name)
        change = (layer.weight - given[name].weight).detach().double().flatten(1)
        for task in ("side", "size"):
            theirs = found[task].basis("energy", 0.8, dtype=torch.float64).vectors[name][0]
            if change.norm() > 0.02 * layer.weight.norm():  # else rounding of the stored weights alone is more
                checked += 1
                assert (theirs.T @ change).norm() < 1e-5 * change.norm(), (name, task)
                bias = (layer.bias - given[name].bias).detach().double()
                assert (theirs.T @ bias).norm() < 1e-5 * max(bias.norm().item(), 0.02 * given[name].bias.norm().item())
    assert checked > 6
    projected = {f"{name}.{kind}" for name in t.subspace.vectors for kind in ("weight", "bias")}
    was = t.teacher.state_dict()
    assert all(torch.equal(v, was[n]) for n, v in mine.state_dict().items() if n not in projected)


@pytest.mark.parametrize(
    ("mode", "retain_gradients", "projection"),
    [
        ("full", "per_sample", True),
        ("full", "mini_batch", False),
        ("conflict", "per_sample", False),
        ("conflict", "mini_batch", True),
    ],
)
def test_the_forget_gradient_is_turned_away_from_every_retained_one(tmp_path, mode, retain_gradients, projection):
    """Retained gradients by a loop of backward passes; the trainer's step, which moves none, at the same weights."""
    options = {"orthogonalisation": mode, "retain_gradients": retain_gradients, "task_projection": projection}
    options |= {"max_steps": 1, "learning_rate": 1e-30, "per_device_retain_batch_size": 16, "distillation_weight": 0.5}
    model = learned()
    with torch.no_grad():  # so that the losses have gradients worth the name
        model.heads["shape"].weight.mul_(0.3)
    t = build(tmp_path, model=model, **options)
    seen, disposal = [], t.disposal

    def watched(losses, parameters):
        seen.append(([x for x in t._retained], parameters, disposal(losses, parameters)))
        return seen[-1][-1]

    t.disposal = watched
    t.train()
    ((retained, parameters, result),) = seen
    assert [chunk for chunk, *_ in retained] == [0, 1, 2, 3] and all(len(images) == 4 for _, images, *_ in retained)
    gradients = result.gradients
    if projection:  # as the step will be
        gradients = [t.subspace.project(t._projected[id(p)], g) for p, g in zip(parameters, gradients, strict=True)]
    forget = torch.cat([g.flatten() for g in gradients]).double()
    cosines = []
    for _, images, labels, _ in retained:
        groups = [slice(i, i + 1) for i in range(4)] if retain_gradients == "per_sample" else [slice(0, 4)]
        for part in groups:
            outputs, values = t.model.eval()(images[part]), dict(zip(TASKS, labels[part].T, strict=True))
            loss = 0.0
            for task in TASKS:
                for row in (~values[task].isnan()).nonzero().flatten().tolist():
                    data = {task: values[task] if task == "size" else values[task].nan_to_num().long()}
                    loss = loss + one_loss(outputs, data, task, row)  # distilling the model itself has no gradient
            gradient = torch.autograd.grad(loss, parameters, materialize_grads=True)
            gradient = torch.cat([g.flatten() for g in gradient]).double()
            cosines.append((forget @ gradient / (forget.norm() * gradient.norm())).item())
    assert len(cosines) == (16 if retain_gradients == "per_sample" else 4)
    assert min(cosines) > -1e-5 and forget.norm() > 1e-4
    assert mode == "conflict" or max(cosines) < 1e-5
    assert 0 < logged(t)["forget_gradient_left"].item() < 1


# The strategies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "forget"),
    [
        ("fine_tune", PARTIAL),
        ("neg_grad_plus", PARTIAL),
        ("orthograd", PARTIAL),
        ("pcgrad", FULL),
        ("interference_aware", FULL),
    ],
)
def test_a_step_is_that_of_the_formula(tmp_path, strategy, forget):
    """Plain gradient descent from the given weights, its gradients by autograd in float64."""
    t = whole(tmp_path, forget, strategy, forget_weight=0.7, retain_gradients="mini_batch", **PLAIN)
    items = [t.train_dataset[number] for number in range(4)]
    model, data = copy.deepcopy(t.teacher).double().requires_grad_(True), toy()
    data = Toy(data.pixel_values.double(), data.labels)
    trained = [n for n, p in t.model.named_parameters() if p.requires_grad]
    weights = [model.get_parameter(n) for n in trained]

    def gradient(pairs, images, tasks=3):
        loss = by_hand(model, data, pairs, images, tasks)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, materialize_grads=True)])

    images, tasks = (48, 1) if forget is PARTIAL else (36, 3)
    retain = gradient(kept_pairs(forget), images)
    step = retain.clone()
    if strategy in ("neg_grad_plus", "orthograd", "interference_aware"):
        away = -gradient(forget_pairs(forget), len(ROWS), tasks)
        if strategy == "interference_aware":
            outputs, rows = model(data.pixel_values), list(ROWS)
            scale = data.labels["size"].double().std(correction=0).item()
            total = sum(
                pair_forgetting(outputs[x][rows], data.labels[x][rows].double(), scale if x == "size" else None).sum()
                for x in ({"shape"} if forget is PARTIAL else TASKS)
            )
            total = total / (len(ROWS) * tasks)
            away = torch.cat([g.flatten() for g in torch.autograd.grad(total, weights, materialize_grads=True)])
        if strategy != "neg_grad_plus":
            chunks = []
            for item in items:  # which images each chunk holds
                found = item["retain"]["pixel_values"].double()
                rows = [(data.pixel_values == x).flatten(1).all(1).nonzero().item() for x in found]
                chunks.append(gradient([p for p in kept_pairs(forget) if p[0] in rows], len(rows)))
            away = orthogonalise(away, torch.stack(chunks))
        step += 0.7 * away
    elif strategy == "pcgrad":
        rows = [gradient([p for p in kept_pairs(forget) if p[1] == task], images) for task in TASKS]
        for task in {PARTIAL: ["shape"], FULL: TASKS}[forget]:
            rows.append(-0.7 * gradient([p for p in forget_pairs(forget) if p[1] == task], len(ROWS), tasks))
        step = pcgrad(torch.stack(rows), torch.Generator().manual_seed(3 * 1_000_003)).sum(0)
    t.train()
    moved = torch.cat([(t.model.get_parameter(n) - t.teacher.get_parameter(n)).flatten() for n in trained]).double()
    assert (moved + 0.1 * step).norm() / (0.1 * step).norm() < 1e-3
    assert strategy in ("fine_tune", "interference_aware") or (step - retain).norm() > 0.03 * retain.norm()


def test_scrub_alternates(tmp_path):
    t = build(tmp_path, strategy="scrub", max_steps=7, min_phase=1, max_phase=2, max_until=0.7)
    t.train()
    logs = [e for e in t.state.log_history if "loss" in e]
    assert ["max" if "disposal_value" in e else "min" for e in logs] == "min max max min max min min".split()
    assert all(("disposal_value" in e) != ("retain_loss" in e) for e in logs)
    assert logs[1]["disposal_value"] < 0


@pytest.mark.parametrize("forget", [PARTIAL, FULL])
def test_salun_draws_one_wrong_label_a_pair_and_moves_only_salient_weights(tmp_path, forget):
    options = {"optim": "adamw_torch", "weight_decay": 0.5, "learning_rate": 1e-2, "saliency": 0.3}
    t = build(tmp_path, forget, learned(), strategy="salun", **options)
    true = t.train_dataset.forget.labels
    assert torch.equal(t.wrong.isnan(), true.isnan())
    for column, task in enumerate(TASKS[: 1 if forget is PARTIAL else 3]):
        wrong = t.wrong[:, column]
        assert (wrong != true[:, column]).all()
        assert task != "size" or set(wrong.tolist()) <= set(toy().labels["size"].tolist())
        assert task != "shape" or len(set(wrong.tolist())) > 2
    seen, loss = [], t.forget_loss

    def watched(outputs, chunk):
        found = loss(outputs, chunk)
        rows = [(toy().pixel_values == x).flatten(1).all(1).nonzero().item() for x in chunk.pixel_values]
        places = [list(ROWS).index(row) for row in rows]
        assert chunk.rows.tolist() == places
        seen.extend(
            torch.equal(true[p].nan_to_num(), y.nan_to_num()) for p, y in zip(places, chunk.labels, strict=True)
        )
        tasks = TASKS[: 1 if forget is PARTIAL else 3]
        wrong = {x: t.wrong[places, i] if x == "size" else t.wrong[places, i].long() for i, x in enumerate(tasks)}
        total = sum(one_loss(outputs, wrong, x, i) for x in tasks for i in range(4))
        assert found.item() == pytest.approx(total.item() / (4 * len(tasks)), rel=1e-4)
        return found

    t.forget_loss = watched
    t.train()
    assert len(seen) == 48 and all(seen)
    for (mine, given), mask in zip(zip(t.trained, t.initial_weights, strict=True), t.mask, strict=True):
        assert torch.equal(mine[~mask], given[~mask])
    assert sum(int(m.sum()) for m in t.mask) == round(0.3 * sum(m.numel() for m in t.mask))


def score(t, rows, task, model=None):
    outputs = (model or t.model).eval()(toy().pixel_values[list(rows)])
    return (outputs[task].argmax(-1) == toy().labels[task][list(rows)]).float().mean().item()


def test_forgets_one_task_of_some_images_and_keeps_the_rest(tmp_path):
    options = {"max_steps": 30, "optim": "adamw_torch", "learning_rate": 3e-3, "retain_gradients": "mini_batch"}
    t = build(tmp_path, model=learned(), **options)
    t.train()
    rest = [row for row in range(48) if row not in ROWS]
    assert score(t, ROWS, "shape", t.teacher) == 1 and score(t, ROWS, "shape") < 0.5
    assert score(t, rest, "shape") > 0.75
    assert score(t, range(48), "side") == 1
    t.save_model(tmp_path / "saved")
    assert_same(MultiHeadClassifier.load(tmp_path / "saved"), t.model)
    assert t.export("side").config.num_labels == 2


def test_forgets_until_images_are_named_as_held_out_ones_were(tmp_path):
    """Also in a run that is interrupted between two measurements and resumed."""
    held_out = toy(60, 1)
    options = {"max_steps": 8, "optim": "adamw_torch", "learning_rate": 3e-3, "retain_gradients": "mini_batch"}
    options |= {"forget_until": "unseen", "check_every": 2, "save_strategy": "steps", "save_steps": 1}

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 5

    model = learned()
    with torch.no_grad():
        model.heads["shape"].weight.mul_(0.05)  # forgets at once
    whole_run = build(tmp_path / "whole", FULL, copy.deepcopy(model), held_out=held_out, **options)
    wanted = task_scores(whole_run, whole_run.callback_handler.callbacks[-1].held_out, model)
    for task in ("shape", "side"):
        right = (model(held_out.pixel_values)[task].argmax(-1) == held_out.labels[task]).double().mean().item()
        assert wanted[task] == pytest.approx(right)
    error = (model(held_out.pixel_values)["size"][:, 0] - held_out.labels["size"]).square().mean().item()
    assert wanted["size"] == pytest.approx(1 - error / toy().labels["size"].var(correction=0).item(), rel=1e-4)
    pursued, step = [], whole_run.active_streams

    def active_streams():
        pursued.append((whole_run.state.global_step, whole_run.pursued))
        return step()

    whole_run.active_streams = active_streams
    whole_run.train()
    scores = {e["step"]: e for e in whole_run.state.log_history if "forget_score_shape" in e}
    assert sorted(scores) == [1, 3, 5, 7], "measured before the step that logs it"
    for at, tasks in pursued:
        entry = scores[at // 2 * 2 + 1]
        assert tasks == tuple(x for x in TASKS if entry[f"forget_score_{x}"] > wanted[x])
    assert len({tasks for _, tasks in pursued}) > 1 and pursued[0][1], "some are let go"
    cut = build(tmp_path / "cut", FULL, copy.deepcopy(model), held_out=held_out, **options)
    cut.add_callback(Stop())
    cut.train()
    again = build(tmp_path / "cut", FULL, copy.deepcopy(model), held_out=held_out, **options)
    again.train(resume_from_checkpoint=True)
    assert_same(again.model, whole_run.model)


@pytest.mark.parametrize("name", ["dinov2", "convnext", "resnet"])
def test_architectures_train(tmp_path, name):
    t = build(tmp_path, model=fresh(name), max_steps=1)
    t.train()
    assert any(not torch.equal(mine, given) for mine, given in zip(t.trained, t.initial_weights, strict=True))
    assert all(torch.isfinite(mine).all() for mine, _ in zip(t.trained, t.initial_weights, strict=True))
    given = dict(t.teacher.named_buffers())
    assert all(torch.equal(b, given[n]) for n, b in t.model.named_buffers()), "running statistics"
