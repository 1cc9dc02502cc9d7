import copy
import json
from dataclasses import replace

import pytest
import torch
from architectures import CONFIGS
from attack_toys import build
from torch import nn
from torch.nn.functional import cross_entropy

from hf_dtl.audit.attacks import schedule
from hf_dtl.audit.attacks.networks import HEAD, Trainable, new_head
from hf_dtl.audit.attacks.stack import FineTuning, Stack, agree, batch_order, prepare_for_vmap
from hf_dtl.functional import augment
from hf_dtl.models.heads import MultiHeadClassifier

RATES, STEPS, FORMS = (1e-3, 1e-2, 3e-3), 8, ("none", "affine", "crop_flip")


def network(architecture, dtype, lora_rank=None):
    published = MultiHeadClassifier(build(architecture).to(dtype), task="published").eval()
    return Trainable(published, 3, lora_rank)


def fine_tunings(net, dtype, steps=STEPS):
    generator = torch.Generator().manual_seed(0)
    members = []
    for seed, rate in enumerate(RATES):
        images = torch.randn(9, 3, 16, 16, generator=generator, dtype=dtype)
        start = net.start(new_head(net.model.num_features, 3, seed), seed)
        labels = torch.arange(3).repeat(3)
        members.append(FineTuning(start, images, labels, batch_order(9, 5, steps, seed), rate, {}, FORMS[seed], seed))
    return members


def stack(net, members, together, **options):
    settings = {"schedule": schedule, "weight_decay": 0.01, "max_gradient_norm": 1.0, **options}
    return Stack(net, members, together=together, **settings)


def finished(net, members, together, **options):
    done = stack(net, members, together, **options)
    done.advance()
    return [done.result(i) for i in range(len(members))]


def oracle(net, member):
    """One fine-tuning by the plain loop that everybody writes."""
    net = copy.deepcopy(net)
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        for name, value in member.start.items():
            parameters[name].copy_(value).requires_grad_(True)
    own = [parameters[name] for name in member.start]
    optimizer = torch.optim.AdamW(own, lr=member.learning_rate, weight_decay=0.01)
    for step, batch in enumerate(member.order):
        optimizer.param_groups[0]["lr"] = member.learning_rate * schedule(step, len(member.order))
        optimizer.zero_grad()
        draws = torch.Generator().manual_seed(1_000_003 * member.seed + step)
        images = augment(member.images[batch], member.augmentation, draws)
        cross_entropy(net(images), member.labels[batch]).backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
    return {name: parameters[name].detach() for name in member.start}


@pytest.mark.parametrize(
    ("architecture", "lora_rank"),
    [(name, None) for name in CONFIGS] + [(name, 2) for name in ("vit", "swin", "resnet", "mobilenet_v2")],
)
def test_together_one_after_another_and_the_plain_loop_agree(architecture, lora_rank):
    net = network(architecture, torch.float64, lora_rank)
    # Rounding grows a hundredfold a step in MobileNetV2: 17 normalised layers on toy images.
    members = fine_tunings(net, torch.float64, steps=3 if architecture == "mobilenet_v2" else STEPS)
    plain = [oracle(net, member) for member in members]
    alone = finished(net, members, together=False)
    prepare_for_vmap(net)
    together = finished(net, members, together=True)
    images = torch.randn(6, 3, 16, 16, dtype=torch.float64)
    for position, member in enumerate(members):
        logits = []
        for state in (plain[position], alone[position], together[position]):
            assert state.keys() == member.start.keys()
            with net.evaluating(state, member.images, 5):
                logits.append(net(images))
        # sdpa and eager attention: transformers takes the softmax of the latter in float32
        torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits[2], logits[0], rtol=1e-4, atol=1e-4)
        moved = [name for name in member.start if not torch.equal(together[position][name], member.start[name])]
        assert moved


@pytest.mark.parametrize("architecture", ["vit", "deit", "dinov2", "swin", "beit", "convnext", "resnet"])
def test_in_single_precision_they_agree_to_a_ten_thousandth(architecture):
    # MobileNetV2 amplifies rounding, see above; it agrees in double precision.
    net = network(architecture, torch.float32)
    members = fine_tunings(net, torch.float32)
    alone = finished(net, members, together=False)
    prepare_for_vmap(net)
    together = finished(net, members, together=True)
    images = torch.randn(20, 3, 16, 16)
    for position, member in enumerate(members):
        logits = []
        for state in (alone[position], together[position]):
            with net.evaluating(state, member.images, 5):
                logits.append(net(images))
        torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)


def test_a_member_that_diverges_is_marked_and_does_not_disturb_the_others():
    net = network("vit", torch.float32)
    members = fine_tunings(net, torch.float32)
    expected = finished(net, members, together=True)
    members[1] = replace(members[1], learning_rate=1e38)
    done = stack(net, members, together=True)
    done.advance()
    assert done.finite == [True, False, True]
    for position in (0, 2):
        for name, value in done.result(position).items():
            torch.testing.assert_close(value, expected[position][name], rtol=1e-4, atol=1e-6)


def test_members_that_are_kept_end_as_if_they_had_been_alone():
    net = network("vit", torch.float32)
    members = fine_tunings(net, torch.float32)
    expected = finished(net, members, together=True)
    cut = stack(net, members, together=True)
    cut.advance(3)
    cut.keep([2, 0])
    cut.advance()
    assert cut.step == STEPS and [m.learning_rate for m in cut.members] == [RATES[2], RATES[0]]
    images = torch.randn(6, 3, 16, 16)
    for position, original in enumerate((2, 0)):
        logits = []
        for state in (cut.result(position), expected[original]):
            with net.evaluating(state, images, 5):
                logits.append(net(images))
        torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_relative_training_does_not_depend_on_the_size_of_a_tensor():
    """A linear layer on features that were made k times larger, and a weight k times smaller: the same function."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(4, 3), torch.randn(8, 4), torch.arange(8) % 3
    order = [torch.arange(8)] * 20
    logits = []
    for k in (1.0, 1e-3):
        scale = {"weight": torch.tensor(k), "bias": torch.tensor(1.0)}
        start = {"weight": net.weight.detach() * k / k, "bias": net.bias.detach()}  # entering: weight * k
        member = FineTuning(start, x / k, y, order, 1e-2, scale)
        (state,) = finished(net, [member], together=False, max_gradient_norm=None)
        logits.append(x / k @ state["weight"].T + state["bias"])
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)


def test_batches_are_of_equal_sizes_and_each_pass_is_a_permutation_by_seed():
    order = batch_order(11, 4, 6, seed=0)
    assert [len(batch) for batch in order] == [4, 4, 3] * 2
    assert torch.cat(order[:3]).sort().values.tolist() == list(range(11))
    assert not torch.equal(torch.cat(order[:3]), torch.cat(order[3:]))
    assert torch.equal(torch.cat(order), torch.cat(batch_order(11, 4, 6, seed=0)))
    assert not torch.equal(torch.cat(order), torch.cat(batch_order(11, 4, 6, seed=1)))


def test_the_network_is_left_with_plain_values_that_can_be_written():
    net = network("resnet", torch.float32)
    state = finished(net, fine_tunings(net, torch.float32), together=True)[0]
    assert {*HEAD} <= state.keys()
    assert all(not value.requires_grad and value.is_contiguous() for value in state.values())
    assert json.dumps({name: list(value.shape) for name, value in state.items()})


class _Halved(torch.autograd.Function):
    """The identity with half of its gradient, where many run together."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = 1.0

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor

    @staticmethod
    def vmap(info, in_dims, x):
        return 0.5 * x + 0.5 * x.detach(), in_dims[0]


class _WrongTogether(nn.Linear):
    def forward(self, x):
        return _Halved.apply(super().forward(x))


def test_stacks_whose_losses_agree_and_whose_gradients_do_not_are_told_apart():
    torch.manual_seed(0)
    order = [torch.arange(6)] * 2
    members = [
        FineTuning(
            {"weight": torch.randn(3, 4), "bias": torch.zeros(3)}, torch.randn(6, 4), torch.arange(6) % 3, order, 1e-2
        )
        for _ in range(2)
    ]
    for kind, same in ((nn.Linear, True), (_WrongTogether, False)):
        alone, together = (stack(kind(4, 3), members, together) for together in (False, True))
        torch.testing.assert_close(alone.gradients()[0], together.gradients()[0])
        assert agree(alone, together) is same
