"""Which model a job of a whole task starts from."""

from types import SimpleNamespace

import pytest
from attack_toys import named
from audit_toys import vit

from hf_dtl.data import embedded_processor
from hf_dtl.errors import ConfigError
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.whole_task_job import WholeTaskJob


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    named(vit(3), ("fox", "Dog", "cat")).save_pretrained(folder)
    embedded_processor(16).save_pretrained(folder)
    return folder


def start(given, target, **options):
    job = WholeTaskJob.__new__(WholeTaskJob)
    job.options = ForgetOptions(forget="mnist[0-5]", model=str(given), **options)
    labels = {"source": ("0", "1"), "target": target}
    job.scenario = SimpleNamespace(tasks={name: SimpleNamespace(labels=own) for name, own in labels.items()})
    return job, job._load_model()


@pytest.mark.parametrize(("epochs", "kept"), [(None, True), (0, True), (1, False)])
def test_a_head_that_names_the_target_classes_is_kept_unless_it_is_to_be_adapted(given, epochs, kept):
    job, model = start(given, ("cat", "dog"), adapt_epochs=epochs)
    assert job.adapted is kept and (model.config.num_labels == 3) is kept


def test_no_adaptation_to_a_head_that_is_not_there_is_refused(given):
    with pytest.raises(ConfigError, match="--adapt_epochs 0 would leave a random head.*owl"):
        start(given, ("cat", "owl"), adapt_epochs=0)
