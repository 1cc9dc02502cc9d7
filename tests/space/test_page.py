"""The parts of the Space without its server: what is refused and drawn, and that the live attack is the audit's."""

import re
import shutil
import struct
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from audit_toys import records, report, tasks_report
from huggingface_hub import RepoCard
from packaging.requirements import Requirement
from PIL import Image

from hf_dtl.audit import AttackConfig, LeakageReport
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.audit.tables import report_tables
from hf_dtl.data import embedded_processor
from hf_dtl.data.sources import EXAMPLE_FOLDER
from hf_dtl.errors import ConfigError, DataError, DTLError, ModelError
from hf_dtl.hub.staging import REPORT
from hf_dtl.hub.weights import weights_sha256
from page import hub, views
from page.curve import curve
from page.events import Events
from page.pairs import EXAMPLE, KEPT, Pairs, hub_id, local_pairs
from page.probe import probe
from page.references import lines, reported, same_attacker
from page.relearn import SIZES, LiveAttack, Progress, counted, offered
from page.tasks import tasks_of

SPACE = Path(__file__).parents[2] / "space"
uploads = pytest.importorskip("page.uploads", reason="gradio comes with the extra `space`")


@pytest.fixture(scope="module")
def pairs():
    return Pairs(local_pairs(SPACE))


@pytest.fixture(scope="module")
def pair(pairs):
    return pairs.get(EXAMPLE)


@pytest.fixture(scope="module")
def trained(pair):
    """The same with a report whose attacks train: `linear_probe` and `full`."""
    return replace(pair, report=report())


# The example pair, and what may be chosen ---------------------------------------------------------------------


def test_the_example_is_small_and_its_report_is_of_these_weights(pair):
    files = [path for path in EXAMPLE_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md", ".png"}
    assert pair.proven is True
    own = LeakageReport.load(EXAMPLE_FOLDER / "scrubbed" / "leakage_report.json")
    assert own == pair.report and own.weights == weights_sha256(EXAMPLE_FOLDER / "scrubbed")
    assert own.settings["command"] == "python scripts/make_example.py"
    assert own.target_destroyed is False


def test_other_weights_are_named(pair):
    assert "these very weights" in views.headline(pair)
    other = replace(pair, proven=False)
    assert "OTHER weights" in views.headline(other) and "OTHER" not in views.headline(replace(pair, proven=None))


def test_a_model_of_several_tasks_is_refused(tmp_path):
    tasks_report().save(tmp_path / "scrubbed" / "leakage_report.json")
    with pytest.raises(ModelError, match="demo has the tasks case, weight, rotation; this page takes"):
        Pairs({"demo": tmp_path}).get("demo")


def test_local_pairs(tmp_path):
    for folder in ("outputs/demo", "outputs/demo/methods/negative_ce", "outputs/demo/methods/cut_off"):
        (tmp_path / folder / "scrubbed").mkdir(parents=True)
        if not folder.endswith("cut_off"):
            (tmp_path / folder / "scrubbed" / "leakage_report.json").touch()
    assert list(local_pairs(tmp_path / "space")) == [
        "example", "example: gradient_collision", "demo", "demo: negative_ce",
    ]  # fmt: skip


def test_pairs_are_kept_and_let_go(monkeypatch, pair):
    loaded = []
    monkeypatch.setattr("page.pairs._load", lambda name, *folders: loaded.append(name) or pair)
    monkeypatch.setattr("page.pairs.LOCAL", 0)
    names = {f"pair {i}": EXAMPLE_FOLDER for i in range(KEPT + 1)}
    many = Pairs(names)
    for name in ("pair 0", "pair 1", "pair 0", "pair 2", "pair 0", "pair 1"):
        many.get(name)
    assert loaded == ["pair 0", "pair 1", "pair 2", "pair 1"] and len(many._kept) == KEPT


@pytest.mark.parametrize(
    "text",
    ("", " ", "/etc/passwd", "../outputs", "~/model", "a/../b", "a/b/c", "a\\b", "C:/x", "é/b", "a/..", "./a", "../a",
     "file:///etc", "https://host/a", "a//b", "user/" + "x" * 200, "a--b/c", None, 3, ["a/b"], "space", "a/b.git"),
)  # fmt: skip
def test_a_text_that_is_no_hub_id(pairs, text):
    with pytest.raises(ConfigError, match="cannot be the published model"):
        pairs.get(text)
    if text:
        with pytest.raises(ConfigError, match="cannot be the undisposed model"):
            pairs.get("user/model", text)


def test_hub_ids():
    assert hub_id(" user/a-b_c.d\n", "model") == "user/a-b_c.d"


# Files of a repository ----------------------------------------------------------------------------------------

CONFIG = {"model_type": "vit", "image_size": 28, "hidden_size": 48, "num_hidden_layers": 3, "id2label": {"0": "a"}}


@pytest.mark.parametrize(
    "change, message",
    (
        ({"auto_map": {"AutoConfig": "code.Config"}}, "code of its own"),
        ({"custom_pipelines": {"a": "b"}}, "code of its own"),
        ({"backbone": "user/other"}, "another model"),
        ({"num_hidden_layers": 65}, "up to 64"),
        ({"depths": [2, 1000]}, "up to 64"),
        ({"depths": [1] * 65}, "65 entries"),
        ({"text": {"vision": {"encoder_layers": 10**9}}}, "up to 64"),
        ({"image_size": 513}, "up to 512"),
        ({"hidden_size": 10**7}, "up to 4096"),
        ({"hidden_size": -(10**7)}, "up to 4096"),
        ({"layer_norm_eps": float("inf")}, "up to 64"),
        ({"num_labels": 2000}, "1000 labels"),
        ({"id2label": {str(i): "a" for i in range(1001)}}, "1000 labels"),
    ),
)
def test_configurations_that_are_refused(change, message):
    hub.check_config(CONFIG, "user/model")
    with pytest.raises(ModelError, match=message):
        hub.check_config(CONFIG | change, "user/model")


def test_processors_that_are_refused():
    hub.check_processor({"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3}, "user/model")
    for size in ({"height": 5000, "width": 5000}, {"shortest_edge": 513}, 10**6):
        with pytest.raises(ModelError, match="up to 512"):
            hub.check_processor({"size": size}, "user/model")
    with pytest.raises(ModelError, match="code of its own"):
        hub.check_processor({"auto_map": {"AutoImageProcessor": "code.P"}}, "user/model")


def test_sizes_are_asked_before_anything_is_fetched():
    good = {"config.json": 700, "model.safetensors": 10**6, "leakage_report.json": 10**5, "pytorch_model.bin": 10**12}
    assert hub._check_files("u/m", good, True) == ["model.safetensors", "leakage_report.json", "config.json"]
    assert "leakage_report.json" not in hub._check_files("u/m", good, False)
    for name, most in hub.LARGEST.items():
        with pytest.raises(ModelError, match=f"{re.escape(name)} of u/m has"):
            hub._check_files("u/m", good | {name: most + 1}, True)
    for name in ("config.json", "model.safetensors", "leakage_report.json"):
        with pytest.raises(DTLError, match=f"has no {re.escape(name)}"):
            hub._check_files("u/m", {k: v for k, v in good.items() if k != name}, True)
    with pytest.raises(DTLError, match="several tasks, which has a folder for each, is not"):
        hub._check_files("u/m", {hub.REPORT: 1}, True)


def test_reports_that_take_long_are_refused():
    hub.check_report(report().to_dict(), "u/m")
    one = report().to_dict()["piggyback"][0]
    for many, says in (
        ([one] * 3001, "3001 rows"),
        ([one | {"seed": seed} for seed in range(21)], "21 seeds"),
        ([one | {"attack": f"attack {i}"} for i in range(41)], "41 attacks"),
    ):
        with pytest.raises(DataError, match=says):
            hub.check_report({"piggyback": many}, "u/m")
    with pytest.raises(DataError, match="301 characters"):
        hub.check_report({"piggyback": [], "method": "x" * 301}, "u/m")


def test_only_embedded_images_are_opened(pair):
    for name in ("cifar10", "/etc", "user/data", "photos/"):
        other = report(piggyback=tuple(records({("scrubbed", 5): [0.5, 0.6]}, dataset=name)))
        assert "do not come with this page" in tasks_of(other, embedded_processor(28), 3)
    settings = {"target_dataset": "mnist[6-9]", "forget_images_per_class": "many"}
    assert "cannot be used" in tasks_of(report(settings=settings), embedded_processor(28), 3)


# Uploads ------------------------------------------------------------------------------------------------------


def png(width, height):
    """A PNG of one colour, compressed as small as can be, by its bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + width // 8)) for _ in range(height)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(16_000, 8_000))
    assert bomb.stat().st_size < 100_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the pixels were decoded"))
    with pytest.raises(DataError, match="16000×8000 pixels"):
        uploads.read_image(bomb)


@pytest.mark.parametrize(
    "content, message",
    ((b"", "no image"), (b"GIF89a", "no image"), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image"),
     (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"), (png(40, 40)[:45], "no image"),
     (png(900, 100), "too narrow"), (bytes(uploads.MOST_BYTES + 1), "larger than 5 MB")),
)  # fmt: skip
def test_files_that_are_refused(tmp_path, content, message):
    path = tmp_path / "upload.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        uploads.read_image(path)


def test_a_picture_that_is_drawn_a_thousand_times_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.effect_noise((64, 64), 50).save(path := tmp_path / "a.jpg", progressive=True)
    assert uploads.read_image(path).size == (64, 64)
    content = path.read_bytes()
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:-2] + content[last:-2] * 1000 + content[-2:])
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="comes in more than 64 passes"):
        uploads.read_image(path)


def test_a_picture_of_a_thousand_tiles_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.effect_noise((64, 400), 50).save(path := tmp_path / "a.tif", tiffinfo={278: 1})
    assert uploads.read_image(path).size == (64, 400)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    monkeypatch.setattr(uploads, "MOST_TILES", 300)
    with pytest.raises(DataError, match="cut into more than 300 parts"):
        uploads.read_image(path)


@pytest.mark.parametrize("mode", ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"))
def test_images_of_every_mode(tmp_path, mode):
    path = tmp_path / ("image.tiff" if mode in ("CMYK", "I;16") else "image.png")
    image = Image.new("RGB", (1200, 700))
    image.paste("white", (0, 0, 600, 300))
    (image.convert("L") if mode == "I;16" else image).convert(mode).save(path)
    image = uploads.on_background(uploads.read_image(path), "white")
    assert image.mode == "RGB" and max(image.size) <= uploads.SIDE
    Image.new(mode, (20, 10)).save(path)
    with pytest.raises(DataError, match="of one colour throughout"):
        uploads.on_background(uploads.read_image(path), "white")


def test_a_transparent_upload_is_put_on_the_background_of_the_models_data(pair, pairs, tmp_path, monkeypatch):
    sign = Image.new("RGBA", (28, 28), (255, 255, 255, 0))  # a white sign on nothing
    sign.paste((255, 255, 255, 255), (9, 4, 18, 24))
    sign.save(tmp_path / "sign.png")
    image = uploads.read_image(tmp_path / "sign.png")
    events = Events(pairs)
    assert "put on white" in events.probe(EXAMPLE, "", image)[0]
    dark = replace(pair, report=replace(pair.report, spec={**pair.report.spec, "background": "black"}))
    monkeypatch.setattr(pairs, "get", lambda *names: dark)
    wrong, seen = events.probe(EXAMPLE, "", image)
    assert not wrong and seen == events.probe(EXAMPLE, "", uploads.on_background(image, "black"))[1]


def test_a_background_that_is_no_colour_is_told(tmp_path):
    folder = shutil.copytree(EXAMPLE_FOLDER, tmp_path / "run") / "scrubbed"
    report = LeakageReport.load(folder / REPORT)
    both = {name: {**getattr(report, name), "background": "nothing"} for name in ("spec", "settings")}
    replace(report, **both).save(folder / REPORT)
    with pytest.raises(DTLError, match="background='nothing' is no colour"):
        Pairs({"run": tmp_path / "run"}).get("run")


# What is drawn ------------------------------------------------------------------------------------------------

EVIL = "<img src=x onerror=alert(1)>"


def test_texts_of_a_model_and_a_report_are_escaped(pair):
    foreign = report(method=EVIL, settings={"source_dataset": EVIL, "target_dataset": EVIL, "command": EVIL})
    pair = replace(pair, report=foreign, tasks=EVIL, means={}, models={"scrubbed": pair.models["scrubbed"]})
    labels = pair.models["scrubbed"].config.id2label
    try:
        pair.models["scrubbed"].config.id2label = dict.fromkeys(labels, EVIL)
        found = {"scrubbed": probe(pair, "scrubbed", Image.new("RGB", (28, 28)))}
    finally:
        pair.models["scrubbed"].config.id2label = labels
    drawn = views.headline(pair) + views.probed(pair, found) + views.card(pair) + views.message(EVIL)
    drawn += curve(None, {"scratch": 0.5}, EVIL)
    assert "<img src=x" not in drawn and "&lt;img src=x" in drawn


def test_card_shows_every_table_and_the_numbers_of_the_report(pair):
    drawn = views.card(pair)
    point = pair.report.axes["source_subset"].pl_accuracy[0]
    assert f"{point.mean:.3f} ± {point.deviation:.3f}" in drawn
    tables = report_tables(pair.report)
    assert drawn.count("<table ") == len(tables) == 3
    assert drawn.count("<td ") == sum(len(row) - 1 for cells in tables for row in cells.rows)
    assert drawn.count("data:image/svg+xml;base64,") == 2
    assert all(re.search(r'alt="[^"]{20}', image) for image in re.findall(r"<img[^>]*>", drawn))


def test_curve():
    references = {"undisposed": 0.8, "retrained": 0.52, "scratch": 0.5}
    drawn = curve(Progress(((0, 0.2), (10, 0.75)), 20, 1.0), references, "Attack")
    assert (
        'aria-label="Attack. Accuracy 0.75 after 10 training steps; undisposed 0.80; retrained 0.52; scratch 0.50."'
        in drawn
    )
    heights = [float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)">', drawn)]
    assert heights == sorted(heights) and min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 18
    # the live point: half of the width, a quarter from the top
    ((x, y),) = re.findall(r'class="live now" cx="([\d.]+)" cy="([\d.]+)"', drawn)
    left, right, top, floor = (float(v) for v in (48, 390, 14, 294))
    assert float(x) == (left + right) / 2 and float(y) == top + (floor - top) / 4


def test_curve_before_the_start_and_at_the_edges():
    assert "has not begun" in curve(None, {}, "Attack")
    for height in (0.0, 1.0):
        same = dict.fromkeys(("undisposed", "retrained", "scratch"), height)
        drawn = curve(Progress(((20, height),), 20, 1.0), same, "Attack")
        heights = [float(y) for y in re.findall(r' y="([-\d.]+)"', drawn)]
        assert 10 < min(heights) and max(heights) <= 340


# The live attack ----------------------------------------------------------------------------------------------


def result(live):
    *_, last = live.run()
    return last


def relearned(pair, attack, budget):
    """A live attack by its steps, which is the audit's own."""
    live = LiveAttack(pair, "scrubbed", attack, budget, 1)
    steps = list(live.run())
    last, points = steps[-1], steps[-1].points
    audits = Attacker(pair.models["scrubbed"], pair.tasks.attacked, live.config).run(attack, budget, 1)
    assert last.accuracy == audits.accuracy and not last.stopped
    assert [step for step, _ in points] == sorted({step for step, _ in points})
    assert points[-1] == (last.steps, last.accuracy) and [len(step.points) for step in steps[:3]] == [1, 2, 3]
    return live, steps


@pytest.mark.parametrize("attack", ("linear_probe", "full"))
def test_a_live_attack_that_trains_is_the_audits(trained, attack):
    live, steps = relearned(trained, attack, 5)
    assert len(steps) >= 8 and steps[-1].points[0][0] == (1 if attack == "linear_probe" else 0)
    own = replace(trained.report, settings={"audit": asdict(live.config)})
    assert same_attacker(own, live.config, attack)
    assert not same_attacker(own, AttackConfig(full_passes=3), attack)


@pytest.mark.parametrize("attack, budget", (("ridge", 20), ("ridge_affine_8", 5), ("ridge_crop_flip_8", 5)))
def test_a_live_attack_in_closed_form_repeats_the_report(pair, attack, budget):
    live, steps = relearned(pair, attack, budget)
    assert steps[-1].accuracy == pytest.approx(reported(pair.report, "scrubbed", attack, budget, 1), abs=0.02)
    assert [size for size, _ in steps[-1].points] == [size for size in SIZES if size < budget] + [budget]
    assert counted(attack) == "images a class" and counted("full") == "training steps"
    assert same_attacker(pair.report, live.config, attack)


def test_attacks_of_the_example_are_those_of_quick_1(pair):
    assert offered(pair) == (["ridge", "ridge_affine_8", "ridge_crop_flip_8"], [5, 20])


@pytest.mark.parametrize("attack", ("full", "ridge_affine_8"))
def test_an_attack_is_stopped(pair, trained, attack):
    live = LiveAttack(trained if attack == "full" else pair, "scrubbed", attack, 20, 0)
    run = live.run()
    next(run)
    live.stop.set()
    *_, last = run
    assert last.stopped and last.accuracy is None and last.points[-1][0] < last.steps


def test_closing_and_the_limit_stop_it(trained, monkeypatch):
    live = LiveAttack(trained, "scrubbed", "full", 20, 0)
    run = live.run()
    next(run)
    run.close()
    assert live.stop.is_set()
    monkeypatch.setattr("page.relearn.LIMIT", 0.3)
    monkeypatch.setattr(LiveAttack, "_affordable", lambda self, model, task: task)
    last = result(LiveAttack(trained, "scrubbed", "full", 20, 0))
    assert last.stopped


@pytest.mark.parametrize("attack", ("full", "ridge_affine_8"))
def test_a_model_that_is_too_slow_is_refused(pair, trained, attack, monkeypatch):
    monkeypatch.setattr("page.relearn.LIMIT", 1e-3)
    with pytest.raises(ModelError, match=r"would take about \d+ seconds"):
        LiveAttack(trained if attack == "full" else pair, "scrubbed", attack, 5, 0)


@pytest.mark.parametrize(
    "which, attack, budget, seed",
    (("scratch", "ridge", 5, 0), ("scrubbed", "full", 5, 0), ("scrubbed", "ridge", 3, 0),
     ("scrubbed", "ridge", 10**9, 0), ("scrubbed", "ridge", 5, -1), ("scrubbed", "ridge", 5, 10**9),
     ("scrubbed", "ridge", 5, True), (None, None, 5, 0)),
)  # fmt: skip
def test_attacks_that_are_not_offered(pair, which, attack, budget, seed):
    with pytest.raises(ConfigError):
        LiveAttack(pair, which, attack, budget, seed)


def test_references_are_of_the_same_attack_and_budget():
    found = lines(report(), "linear_probe", 20)
    assert list(found) == ["undisposed", "scrubbed", "retrained", "scratch"]
    assert found["undisposed"] == pytest.approx(0.8) and found["scratch"] == pytest.approx(0.4)
    assert reported(report(), "scrubbed", "full", 5, 2) == pytest.approx(0.62)
    assert reported(report(), "scrubbed", "full", 5, 3) is None and lines(report(), "lora", 20) == {}


def test_features_before_disposal_know_more_than_after(pair):
    before, after = pair.means["undisposed"].known, pair.means["scrubbed"].known
    assert after < before
    image = pair.tasks.examples[0].image
    found = probe(pair, "undisposed", image)
    assert sum(value for _, value in found.predictions) == pytest.approx(1, abs=1e-5)
    assert {name for name, _ in found.predictions} == {"N", "Q", "R", "T"}
    assert all(-1 <= value <= 1 for _, value in found.nearest)
    with torch.random.fork_rng():
        assert probe(pair, "undisposed", image) == found


# The folder as a Space ----------------------------------------------------------------------------------------


def test_front_matter_and_requirements():
    card = RepoCard.load(SPACE / "README.md", repo_type="space", ignore_metadata_errors=False).data.to_dict()
    assert card["sdk"] == "gradio" and card["python_version"] == "3.11" and card["license"] == "apache-2.0"
    pinned = dict(line.split("==") for line in (SPACE.parent / "constraints.txt").read_text().split() if "==" in line)
    assert card["sdk_version"] == pinned["gradio"]
    assert len(card["short_description"]) <= 60 and len(card["emoji"]) == 1 and (SPACE / card["app_file"]).is_file()
    names = [Requirement(line).name for line in (SPACE / "requirements.txt").read_text().splitlines()]
    assert names == ["hf_dtl"]


def test_nothing_in_the_folder_names_another_host():
    for path in SPACE.rglob("*"):
        if path.suffix in (".py", ".css", ".html"):
            assert not re.search(r"https?://(?!127\.0\.0\.1)", path.read_text()), path
