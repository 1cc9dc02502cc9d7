"""Publishing over real HTTP with the real clients, to a Hub on the loopback interface."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from audit_toys import QUICK, report, task, vit
from hub.hub_server import READER, WRITER, HubServer
from publish_toys import LABELS, LEAKS, NUMBER, OTHER, TASK, finished_run, finished_tasks, picture, planted, save, sign
from publish_twins import levels, little_left
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_dtl.audit import LeakageReport, run_audit
from hf_dtl.audit.unlearning import Unlearning
from hf_dtl.errors import PublishError
from hf_dtl.hub.publish import publish, publish_model

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "scripts" / "publish.py"
STAGED = {
    "README.md", "config.json", "leakage_report.json", "model.safetensors", "plots/attacks.png", "plots/piggyback.png",
    "preprocessor_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("publish") / "run")


@pytest.mark.parametrize("option", ["commit_message", "revision", "license"])
@pytest.mark.parametrize("text", ["hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567", "/home/ann/run"])
def test_options_that_would_leak_are_refused_in_a_dry_run_too(run, option, text):
    with pytest.raises(PublishError, match=f"--{option} (holds a Hugging Face|names a local)"):
        publish(run, "ann/model", dry_run=True, **{option: text})


@pytest.mark.parametrize("option", ["commit_message", "revision", "license"])
def test_words_of_the_report_are_no_options(run, option):
    with pytest.raises(PublishError, match=f"--{option} has 'forgotten', which is a word of the report"):
        publish(run, "ann/model", dry_run=True, **{option: "forgotten"})


@pytest.mark.parametrize("text", ["ssh ann@gpu07", "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"])
def test_a_message_is_searched_as_words_are(run, text):
    with pytest.raises(PublishError, match="--commit_message holds a "):
        publish(run, "ann/model", dry_run=True, commit_message=text)


def test_a_licence_brings_no_further_metadata(run):
    with pytest.raises(PublishError, match="is no licence as the Hub writes one, such as"):
        publish(run, "ann/model", dry_run=True, license="apache-2.0\nunlearning: x")


def test_a_token_is_no_name_of_a_repository(run):
    with pytest.raises(PublishError, match="the repository's name holds a Hugging Face"):
        publish(run, "ann/hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567", dry_run=True)


@pytest.mark.parametrize("role", ["undisposed", "retrained"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_model_of_the_run_is_not_published_as_scrubbed(run, tmp_path, role, dtype):
    own = shutil.copytree(run, tmp_path / "run")
    method = shutil.copytree(own / "scrubbed", own / "methods" / "scrub" / "scrubbed")
    AutoModelForImageClassification.from_pretrained(method, dtype=dtype).save_pretrained(own / role)
    told = own / "leakage_report.json"
    audited = LeakageReport.load(told)
    for folder, further in ((own, {}), (own / "scrubbed", {"report": told}), (own / "methods" / "scrub", {})):
        with pytest.raises(PublishError, match=f"are those of .*run/{role}"):
            publish(folder, "ann/model", dry_run=True, **further)
    same = [replace(r, model="retrained") for r in audited.piggyback if r.model == "scrubbed"]
    others = [r for r in audited.piggyback if r.model != "retrained"]
    sign(own / "scrubbed", replace(audited, piggyback=(*others, *same)))
    if role == "retrained":  # published as what it is
        assert publish(own / "scrubbed", "ann/model", dry_run=True).files


@pytest.mark.parametrize(
    ("noise", "left", "refused"),
    [(1e-7, 0.9, True), (1e-3, 0.1, True), (1e-3, 0.9, False), (5e-3, 0.1, False)],
)
def test_the_undisposed_model_with_a_little_noise_is_not_scrubbed_and_a_light_disposal_is(
    run, tmp_path, noise, left, refused
):
    own = shutil.copytree(run, tmp_path / "run")
    model = AutoModelForImageClassification.from_pretrained(own / "scrubbed")
    torch.manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value *= 1 + noise * torch.randn_like(value)
    model.save_pretrained(own / "undisposed")
    audited = report(scrubbed=[low + left * (high - low) for low, high in zip(*levels(), strict=True)])
    assert audited.headline.mean == pytest.approx(left)
    sign(own / "scrubbed", audited)
    if refused:
        with pytest.raises(PublishError, match="are those of .*undisposed .relative distance"):
            publish(own, "ann/model", dry_run=True)
    else:
        assert publish(own, "ann/model", dry_run=True).files


def test_a_person_who_is_named_as_forgotten_is_told(run, tmp_path, caplog):
    own = shutil.copytree(run, tmp_path / "run")
    accuracy = {split: dict.fromkeys(("undisposed", "scrubbed"), 0.5) for split in ("forget", "retain", "test")}
    for request in ("person=ann", "class=3"):
        part = Unlearning(request, {"forget": 9, "retain": 9}, accuracy, {})
        sign(own / "scrubbed", report(unlearning=part))
        publish(own, "ann/model", dry_run=True)
    assert "Card and report say what was forgotten: person=ann." in caplog.text and "class=3." not in caplog.text


def test_the_undisposed_model_in_other_weights_is_not_scrubbed(run, tmp_path):
    """Hidden units in another order, and some of them scaled: no weight is where it was, and no answer is another."""
    own = shutil.copytree(run, tmp_path / "run")
    model = AutoModelForImageClassification.from_pretrained(own / "scrubbed")
    order = torch.randperm(model.config.intermediate_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in (m for m in model.modules() if hasattr(m, "fc1") and hasattr(m, "fc2")):
            layer.fc1.weight.copy_(layer.fc1.weight[order])
            layer.fc1.bias.copy_(layer.fc1.bias[order])
            layer.fc2.weight.copy_(layer.fc2.weight[:, order])
    model.save_pretrained(own / "undisposed")
    sign(own / "scrubbed", little_left())
    with pytest.raises(PublishError, match="The (answers|features) in .* are those of .*undisposed"):
        publish(own, "ann/model", dry_run=True)


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """A process that has this Hub for the Hub, and a cache of its own."""
    environment = hub.environment(tmp_path_factory.mktemp("home"), token=None)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "publish_client.py")],
        env=environment | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE.parents[1]}", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(name, *words, token=WRITER):
        process.stdin.write(json.dumps([name, token, [str(word) for word in words]]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.kill()  # its own end takes seconds
    process.wait()


def logits(folder):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        return model(**processor([picture(0), picture(1)], return_tensors="pt")).logits


def test_killed_in_the_middle_it_is_continued_by_the_same_command_and_loads_back(hub, run, client, tmp_path):
    # a real report: three models, attacked
    models = {"undisposed": vit(seed=1), "scrubbed": vit(), "scratch": vit(seed=2)}
    report = LeakageReport.load(run / "scrubbed" / "leakage_report.json")
    records = run_audit(models, {"source": task(name="toy")}, replace(QUICK, attacks=("linear_probe",)))
    chance = {"toy": 1 / 3}
    save(models["scrubbed"], tmp_path / "run" / "scrubbed", replace(report, piggyback=tuple(records), chance=chance))
    for picture_file in LeakageReport.load(tmp_path / "run" / "scrubbed" / "leakage_report.json").plot(
        tmp_path / "run" / "scrubbed" / "plots"
    ):
        if f"plots/{picture_file.name}" not in STAGED:
            picture_file.unlink()
    words = [str(tmp_path / "run"), "ann/scrubbed"]
    weights = LeakageReport.load(tmp_path / "run" / "scrubbed" / "leakage_report.json").weights["model.safetensors"]

    hub.hold = f"PUT .*{weights}"
    first = client("begin", *words)
    assert hub.held.wait(timeout=120)
    deadline = time.monotonic() + 60
    while len(hub.received) < 2:  # the pictures
        assert time.monotonic() < deadline
    os.kill(first, signal.SIGKILL)
    hub.hold = None
    hub.release.set()
    published = hub.repositories["ann/scrubbed"]
    assert set(published.files()) == {".gitattributes"}, "nothing is visible before the commit"

    assert client("script", *words) is None
    assert set(published.files()) == {".gitattributes", *STAGED} and len(published.commits) == 2
    for name in STAGED:
        assert published.files()[name] == (tmp_path / "run" / "scrubbed" / name).read_bytes()
    assert len(hub.received) == len(set(hub.received)) == 3, "nothing is sent twice"
    assert published.private and published.messages[-1].startswith("Publish the scrubbed model")

    loaded, expected = client("load", "ann/scrubbed"), logits(tmp_path / "run" / "scrubbed")
    assert torch.equal(torch.tensor(loaded["logits"]), expected)
    scores = dict(zip(LABELS, expected[0].softmax(-1).tolist(), strict=True))
    assert loaded["scores"] == pytest.approx(scores)
    assert "ann/scrubbed" in client("load", "ann/scrubbed", token=None), "it is private"


def test_a_second_publication_updates_and_leaves_nothing_of_the_first(hub, run, client, tmp_path):
    assert client("script", run, "ann/again", "--private", "false") is None
    repository = hub.repositories["ann/again"]
    assert not repository.private and len(repository.commits) == 2
    assert client("script", run, "ann/again", "--private", "false") is None
    assert len(repository.commits) == 2, "nothing new, no commit"

    model = AutoModelForImageClassification.from_pretrained(run / "scrubbed")
    save(model, tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    (tmp_path / "sharded" / "leakage_report.json").unlink()
    shutil.copy(run / "leakage_report.json", tmp_path / "sharded")
    sign(tmp_path / "sharded")
    files = {p.name for p in (tmp_path / "sharded").iterdir()}
    repository.files()["LICENSE"] = b"mine"
    words = ("ann/again", "--private", "false", "--commit_message", "Better", "--revision", "main")
    assert client("script", tmp_path / "sharded", *words) is None
    assert set(repository.files()) == {".gitattributes", "LICENSE", *files}
    assert repository.messages[-1] == "Better"
    expected = logits(tmp_path / "sharded")
    assert torch.equal(torch.tensor(client("load", "ann/again", token=None)["logits"]), expected)
    assert not torch.equal(expected, logits(run / "scrubbed"))


def test_a_model_of_several_tasks_takes_the_place_of_one_and_back(hub, run, client, tmp_path):
    tasks = finished_tasks(tmp_path / "run")
    own = {
        p.relative_to(tasks / "scrubbed").as_posix() for p in (tasks / "scrubbed").rglob("*.*") if p.suffix != ".svg"
    }
    for folder, files in ((run, STAGED), (tasks, own), (run, STAGED)):
        assert client("script", folder, "ann/tasks") is None
        assert set(hub.repositories["ann/tasks"].files()) == {".gitattributes", *files}


def test_a_branch_is_made_and_main_stays_as_it_is(hub, run, client):
    assert client("script", run, "ann/branched", "--revision", "v2") is None
    repository = hub.repositories["ann/branched"]
    assert set(repository.files()) == {".gitattributes"} and set(repository.files("v2")) >= STAGED
    assert client("script", run, "ann/branched", "--revision", "v2", "--commit_message", "twice") is None
    assert "logits" in client("load", "ann/branched", "v2")
    assert "ann/branched" in client("load", "ann/branched")


def test_no_leak_reaches_the_hub(hub, run, client, tmp_path):
    before, requests = set(hub.repositories), len(hub.requests)
    folders = [planted(run, name, tmp_path / str(number)) for number, name in enumerate(LEAKS)]
    errors = client("refused", "ann/planted", *folders)
    for (name, (_, said)), error in zip(LEAKS.items(), errors, strict=True):
        assert re.match(rf"PublishError: .*({said})", error, re.DOTALL), (name, error)
    assert set(hub.repositories) == before and len(hub.requests) == requests
    assert client("refused", "ann/planted", run)[0].startswith("no error"), "the same folder without a leak"


def test_a_name_alone_belongs_to_the_user_of_the_token(hub, run, client):
    assert client("script", run, "alone") is None
    assert "ann/alone" in hub.repositories


@pytest.mark.parametrize(
    ("words", "token", "said"),
    [
        (["ann/new"], None, "There is no token of the Hub. Log in with `hf auth login`"),
        (["ann/new"], "hf_expired", "does not accept the token"),
        (["bob/new"], READER, r"may not write to bob/new: .*rights"),
        (["eve/new"], WRITER, r"may not write to eve/new: .*rights"),
        (["ann/a/b"], WRITER, "'ann/a/b' is not the id of a model"),
        (["datasets/ann/b"], WRITER, "is not the id of a model: write user/name"),
        (["ann/bad name"], WRITER, "is not the id of a model"),
    ],
)
def test_who_may_not_publish_is_told_why(hub, run, client, words, token, said):
    before = set(hub.repositories)
    assert re.match(f"PublishError: .*{said}", client("script", run, *words, token=token), re.DOTALL)
    assert set(hub.repositories) == before


def test_what_an_existing_repository_is_must_be_wanted(hub, run, client):
    assert client("script", run, "ann/public", "--private", "false") is None
    assert client("script", run, "ann/secret") is None
    assert hub.repositories["ann/secret"].private
    requests = len(hub.writes())
    assert "ann/public is public, but was to be private" in client("script", run, "ann/public")
    assert "ann/secret is private, but was to be public" in client("script", run, "ann/secret", "--private", "false")
    hub.repositories["ann/public"].files()["old/training_args.bin"] = b""
    error = client("script", run, "ann/public", "--private", "false", "--revision", "new")
    assert "ann/public already holds what a published model must not: old/training_args.bin" in error
    # a public repository of somebody else
    del hub.repositories["ann/public"].files()["old/training_args.bin"]
    assert len(hub.writes()) == requests
    error = client("script", run, "ann/public", "--private", "false", "--commit_message", "mine", token=READER)
    assert "may not write to ann/public" in error


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (("POST .*/commit/", 500), "The Hub answered 500: planted. Start the same command again"),
        (("POST .*/commit/", 0), "The Hub cannot be reached .*Start the same command again"),
        (("GET /api/models/", 0), "The Hub cannot be reached .*Check the network"),
        (("POST .*/commit/", 409), "somebody else writes to it now"),
        (("POST .*/preupload/", 404), r"shows this token no model ann/faulty \(404\)"),
        (("POST .*/create", 402), "may not write to ann/faulty"),
    ],
)
def test_after_a_failure_of_the_hub_the_same_command_succeeds(hub, run, client, fault, said):
    hub.repositories.pop("ann/faulty", None)
    hub.faults.append(fault)
    assert re.match(f"PublishError: {said}|PublishError: .*{said}", client("script", run, "ann/faulty"), re.DOTALL)
    assert not hub.faults and "README.md" not in getattr(hub.repositories.get("ann/faulty"), "files", dict)()
    received = len(hub.received)
    assert client("script", run, "ann/faulty") is None
    assert set(hub.repositories["ann/faulty"].files()) >= STAGED and len(hub.received) == received


def test_a_report_that_the_hub_leaves_out_is_missed(hub, run, client):
    hub.ignored.add("leakage_report.json")
    assert "The Hub left out leakage_report.json" in client("script", run, "ann/ignoring")
    hub.ignored.clear()
    assert client("script", run, "ann/ignoring") is None


def test_a_trainer_publishes_with_its_report_and_never_without(hub, client, tmp_path):
    requests = len(hub.writes())
    done = client("trainer", tmp_path / "run", "ann/trained")
    said = {
        "no report": "ConfigError: push_to_hub needs a processing_class and the leakage report",
        "report of other weights": "PublishError: leakage_report.json does not belong to these weights",
        "Trainer's card": "ConfigError: push_to_hub=True and create_model_card upload",
        "a checkpoint": "ConfigError: push_to_hub=True and create_model_card upload",
        "push_to_hub=True": "ConfigError: push_to_hub=True and create_model_card upload",
    }
    for name, error in done["errors"].items():
        assert error.startswith(said[name]), (name, error)
    assert done["errors"].keys() == said.keys()
    repository = hub.repositories["ann/trained"]
    assert done["url"] == f"{hub.url}/ann/trained" and not repository.private
    assert set(repository.files()) == {".gitattributes", *STAGED} and repository.messages[-1] == "Scrubbed"
    assert len([w for w in hub.writes()[requests:] if "/create" in w]) == 1
    assert torch.equal(torch.tensor(client("load", "ann/trained")["logits"]), logits(tmp_path / "run" / "scrubbed"))


def test_models_of_several_tasks_in_memory_are_published_with_their_report(tmp_path):
    folder = finished_tasks(tmp_path / "run") / "scrubbed"
    load = AutoModelForImageClassification.from_pretrained
    models = {task: load(folder / task) for task in (TASK, OTHER, NUMBER)}
    processor = AutoImageProcessor.from_pretrained(folder / TASK)
    report = LeakageReport.load(folder / "leakage_report.json")
    staged = publish_model(models, processor, report, "ann/tasks", dry_run=True).files
    assert staged == publish(folder, "ann/tasks", dry_run=True).files
    with pytest.raises(PublishError, match="does not belong to these weights"):
        publish_model(models | {OTHER: models[TASK]}, processor, report, "ann/tasks", dry_run=True)


def test_offline_nothing_is_asked(run, monkeypatch):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set"):
        publish(run, "ann/offline", token=WRITER)
    assert {file.name for file in publish(run, "ann/offline", dry_run=True).files} == STAGED
