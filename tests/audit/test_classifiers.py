import copy

import pytest
import torch
from audit_toys import split, vit
from safetensors.torch import save
from torch import nn

from hf_dtl.audit import accuracy, scratch_model
from hf_dtl.errors import DataError, ModelError


def test_accuracy_of_models_and_functions_and_the_mode_of_each_module_is_kept():
    images, model = split(7), vit(dropout=0.5).train()
    model.vit.embeddings.eval()
    modes = [module.training for module in model.modules()]
    expected = (copy.deepcopy(model).eval()(images.pixel_values).logits.argmax(-1) == images.labels).float().mean()
    assert accuracy(model, images, batch_size=4) == pytest.approx(expected.item())
    assert [module.training for module in model.modules()] == modes
    assert accuracy(lambda x: nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 3), images) == 1 / 3
    with pytest.raises(DataError, match="zero images"):
        accuracy(model, split(0))
    with pytest.raises(ModelError, match="not finite"):
        accuracy(lambda x: torch.full((len(x), 3), float("nan")), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scratch_is_the_same_architecture_with_fresh_weights_by_seed(dtype):
    model = vit(4).to(dtype)
    state = torch.get_rng_state()
    first, again, other = scratch_model(model, 0), scratch_model(model, 0), scratch_model(model, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.dtype == dtype and first.config.num_labels == 4 and type(first) is type(model)
    assert save(first.state_dict()) == save(again.state_dict()) != save(other.state_dict())
    assert not torch.equal(first.vit.embeddings.cls_token, model.vit.embeddings.cls_token)
