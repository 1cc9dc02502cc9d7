"""The same command after the list or the model was changed in place: nothing of before is taken for new."""

import json
import shutil

import pytest
import torch
from architectures import CONFIGS
from transformers import AutoModelForImageClassification

from hf_dtl.data import embedded_processor, load_task
from hf_dtl.pipeline.forget import run
from hf_dtl.pipeline.forget_options import ForgetOptions

pytestmark = pytest.mark.usefixtures("short_attacks")

NAMES = ("0", "1", "2")


def model(folder, seed):
    config = CONFIGS["vit"]()
    config.image_size, config.patch_size, config.num_labels = 14, 7, 3
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
    torch.manual_seed(seed)
    shutil.rmtree(folder, ignore_errors=True)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    embedded_processor(14).save_pretrained(folder)


@pytest.fixture
def place(tmp_path):
    rows = sorted(load_task("mnist[0,1,2]", images_per_class=20).train_rows.tolist())
    (tmp_path / "rows.txt").write_text("\n".join(map(str, rows[:6])))
    model(tmp_path / "model", 0)
    return tmp_path, rows


def scrub(place, output):
    found = run(
        ForgetOptions(
            model=str(place / "model"), retain="mnist[0,1,2]", retain_images_per_class=20,
            forget=str(place / "rows.txt"), method="random_label", steps=3, learning_rate=1e-3, attacks="linear_probe",
            budgets="2", seeds="0", max_eval_images=20, membership=False, use_cpu=True, output_dir=str(place / output),
        )
    )  # fmt: skip
    report = found.audit()
    return found.model.state_dict(), report


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_changed_list_and_a_changed_model_are_done_anew(place):
    place, rows = place
    monday, _ = scrub(place, "run")
    again, _ = scrub(place, "run")
    assert same(monday, again)
    (place / "rows.txt").write_text("\n".join(map(str, rows[:12])))
    tuesday, report = scrub(place, "run")
    fresh, expected = scrub(place, "fresh")
    assert not same(monday, tuesday) and same(tuesday, fresh)
    assert report.unlearning.images == expected.unlearning.images == {"forget": 12, "retain": 60}
    assert [r.accuracy for r in report.piggyback] == [r.accuracy for r in expected.piggyback]
    model(place / "model", 1)
    other, report = scrub(place, "run")
    fresh, expected = scrub(place, "fresh2")
    assert not same(tuesday, other) and same(other, fresh)
    assert report.unlearning.accuracy == expected.unlearning.accuracy
    assert json.loads((place / "run" / "leakage_report.json").read_text())["unlearning"]["images"]["forget"] == 12
