"""What a dishonest publisher hides or claims, each planted in a finished run; broken files, and innocents."""

import base64
import copy
import json
import re
import shutil
import struct
from dataclasses import asdict, replace

import torch
import yaml
from audit_toys import resnet, vit
from PIL import Image
from publish_toys import LABELS, WEIGHTS, in_card, in_json, in_weights, save, save_model, sign, write, write_card
from publish_twins import TWINS
from safetensors.torch import load_file, save_file

from hf_dtl.audit import LeakageReport
from hf_dtl.audit.membership import MembershipResult
from hf_dtl.audit.transfer_bound import TransferBound
from hf_dtl.audit.unlearning import Unlearning
from hf_dtl.hub.card import MARKER
from hf_dtl.methods.transfer_images import TRANSFER, TransferLabels

HEAD = base64.b64encode(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)).numpy().tobytes()).decode()
REPORT, CARD, WARD = "leakage_report.json", "README.md", b"patient 4711 of ward 3"


def signed(plant):
    """The same before the audit: report and card speak of what is there."""

    def planted(folder):
        plant(folder)
        sign(folder)

    return planted


def header(change):
    """The header of the weights, changed as bytes."""

    def plant(folder):
        path = folder / WEIGHTS
        content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        new, data = change(content[8 : 8 + size].rstrip(), content[8 + size :])
        path.write_bytes(struct.pack("<Q", len(new)) + new + data)

    return signed(plant)


def hole(text, data):
    found = json.loads(text)
    for key in found.keys() - {"__metadata__"}:
        found[key]["data_offsets"] = [place + 64 for place in found[key]["data_offsets"]]
    return json.dumps(found, separators=(",", ":")).encode(), b"y" * 64 + data


def name_twice(text, data):
    return b'{"classifier.bias":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},' + text[1:], data


def doubles(folder):
    """The second half of 64 bits may hold another model."""
    weights = {name: value.double() * (1 + 2.0**-30) for name, value in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def halves(folder):
    weights = {name: value.half() for name, value in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def counter(folder):
    shutil.rmtree(folder)
    save(resnet(), folder)
    weights = load_file(folder / WEIGHTS)
    for name in (name for name in weights if "num_batches_tracked" in name):
        weights[name] = torch.tensor(int.from_bytes(b"headbits", "little") >> 1)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def counters(folder):
    """Three bytes in each."""
    shutil.rmtree(folder)
    save(resnet(), folder)
    weights = load_file(folder / WEIGHTS)
    for i, name in enumerate(name for name in weights if "num_batches_tracked" in name):
        weights[name] = torch.tensor(1000 + i)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def text_in_weights(folder):
    weights = load_file(folder / WEIGHTS)
    name = max(weights, key=lambda name: weights[name].numel())
    flat = weights[name].flatten()
    flat[:10] = torch.frombuffer(bytearray(b"hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567abc"), dtype=torch.float32)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def nine_rows(*further):
    def plant(folder):
        save_model(vit(num_labels=9), folder, (*LABELS, *further))

    return signed(plant)


def nine_rows_of_a_part(folder):
    """Of a part rows may stay, so the report has the part of one."""
    nine_rows(*"012345")(folder)
    accuracy = {split: dict.fromkeys(("undisposed", "scrubbed"), 0.5) for split in ("forget", "retain", "test")}
    spec = {"kind": "task", "forget": "mnist[0-5]", "retain": "mnist[6-9]", "seed": 0}
    own_report(unlearning=Unlearning("class=3", {"forget": 9, "retain": 9}, accuracy, {}), spec=spec)(folder)


def changed_report(change):
    """The report, written again by hand."""

    def plant(folder):
        content = json.loads((folder / REPORT).read_text())
        change(content)
        (folder / REPORT).write_text(json.dumps(content))

    return plant


def own_report(**changes):
    """A report that was made so, with its card."""

    def plant(folder):
        sign(folder, replace(LeakageReport.load(folder / REPORT), **changes))

    return plant


def settings(**changes):
    def plant(folder):
        found = LeakageReport.load(folder / REPORT)
        sign(folder, replace(found, settings=found.settings | changes))

    return plant


def foreign(options):
    """A method of another package, with these options."""

    def plant(folder):
        settings(disposal=options)(folder)
        own_report(method="theirs")(folder)

    return plant


def words(text):
    """At the end of the card, where its publisher may write."""
    return in_card(f"\n{text}\n")


def body(change):
    """The card's text without its metadata, changed."""

    def plant(folder):
        text = (folder / CARD).read_text()
        end = text.index("\n---\n", 4) + 5
        (folder / CARD).write_text(text[:end] + change(text[end:]))

    return plant


def metadata(change):
    def plant(folder):
        text = (folder / CARD).read_text()
        end = text.index("\n---\n", 4)
        content = yaml.safe_load(text[4:end])
        change(content)
        (folder / CARD).write_text(f"---\n{yaml.safe_dump(content, sort_keys=False)}{text[end + 1 :]}")

    return plant


def false_results_first(content):
    results = content["model-index"][0]["results"]
    lies = copy.deepcopy([r for r in results if "piggyback" in r["metrics"][0]["name"]])
    for lie in lies:
        lie["metrics"][0]["value"] = 0.01
    content["model-index"][0]["results"] = lies + results


def own_result(content):
    lie = copy.deepcopy(content["model-index"][0]["results"][-1])
    lie["metrics"][0] |= {"name": "leakage", "value": 0.0}
    content["model-index"].insert(0, {"name": "certified", "results": [lie]})


def leakage_of(**changes):
    return changed_report(lambda content: content["leakage"].update(changes))


def first_axis(**changes):
    return changed_report(lambda content: content["leakage"]["axes"]["source_subset"].update(changes))


def rewritten(change):
    """The settings of the model, their text changed."""

    def plant(folder):
        path = folder / "config.json"
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before

    return plant


def other_order(text, data):
    found = json.loads(text)
    keys = sorted(found.keys() - {"__metadata__"}, reverse=True)
    moved, place, content = {}, 0, b""
    for key in keys:
        first, end = found[key]["data_offsets"]
        moved[key] = found[key] | {"data_offsets": [place, place + end - first]}
        content, place = content + data[first:end], place + end - first
    return json.dumps({"__metadata__": {"format": "pt"}} | moved, separators=(",", ":")).encode(), content


def named(*labels):
    """A model whose classes are called so."""

    def plant(folder):
        numbers = {str(i): label for i, label in enumerate(labels)}
        in_json("config.json", id2label=numbers, label2id={label: int(i) for i, label in numbers.items()})(folder)
        found = LeakageReport.load(folder / REPORT)
        sign(folder, found)

    return plant


def of_records(change):
    """A report whose attacks were changed, with their number, by hand."""
    return changed_report(lambda content: [record.update(change(i)) for i, record in enumerate(content["piggyback"])])


def rates(folder):
    found = LeakageReport.load(folder / REPORT)
    runs = (replace(r, learning_rate=1 / (3 + i)) for i, r in enumerate(found.piggyback))
    sign(folder, replace(found, piggyback=tuple(runs)))


def said(channel, codes, method="anchored_distillation"):
    """What a private model is said to have told of images, counted in the report."""

    def plant(folder):
        TransferLabels(channel, LABELS, False, "0" * 32, codes).save(folder / TRANSFER)
        bound = TransferBound(channel, len(codes), len(LABELS))
        found = LeakageReport.load(folder / REPORT)
        sign(folder, replace(found, method=method, settings={"source_dataset": "mnist[0-5]"}, bound=bound))

    return plant


def linked(folder):
    (folder / "LICENSE").symlink_to("config.json")


LOSS = {"model": "scrubbed", "attack": "loss"}
SPEC = {"kind": "task", "forget": "mnist[0-5]", "retain": "mnist[6-9]", "seed": 0}


def command_of(text):
    """A command, beside what the report's spec says of the data."""

    def plant(folder):
        found = LeakageReport.load(folder / REPORT)
        sign(folder, replace(found, spec=SPEC, settings=found.settings | {"command": text}))

    return plant


def named_and_said(label, text):
    def plant(folder):
        named(label, "b", "c")(folder)
        words(text)(folder)

    return plant


HIDDEN = {
    "source labels beside the weights": (in_weights(dict, {"source_labels": "cat,dog"}), "carries texts"),
    "a head beside the weights": (in_weights(dict, {"head": HEAD}), "carries texts"),
    "a user's name beside the weights": (in_weights(dict, {"run": "ann/private/run7"}), "carries texts"),
    "weights of 64 bits": (signed(doubles), "numbers of the kind float64"),
    "weights of 16 bits": (signed(halves), "numbers of the kind float16"),
    "another model in half precision": (signed(in_json("config.json", dtype="float16")), "computes in float16"),
    "another model in double precision": (signed(in_json("config.json", dtype="float64")), "computes in float64"),
    "another model for older readers": (
        signed(in_json("config.json", torch_dtype="bfloat16")), "computes in bfloat16",
    ),
    "two processors": (
        signed(write("processor_config.json", '{\n  "image_processor": {\n    "size": 8\n  }\n}\n')),
        "which of the two prepares the images",
    ),
    "a label of a page": (named("a" * 600, "b", "c"), "the longest of 600 characters"),
    "a head of labels": (
        in_json("config.json", id2label={str(i): f"{i}" for i in range(30_000)}), "names 30,000 labels",
    ),
    "a row of the source task in other letters": (named("6", "7", "\uff10"), "classes \uff10 of the forgotten task"),
    "bytes behind the weights": (header(lambda text, data: (text, data + b"x" * 64)), "does not load"),
    "a hole in the weights": (header(hole), "does not load"),
    "blanks in the header": (header(lambda text, data: (text + b" " * 5000, data)), "more than the names and places"),
    "a code of blanks": (header(lambda text, data: (text[:-1] + b" \t\t " * 9 + b"}", data)), "more than the names"),
    "a name twice in the header": (header(name_twice), "'classifier.bias' stands twice"),
    "a code in a counter": (signed(counter), "counts to"),
    "a text in counters": (signed(counters), "different numbers, as no training"),
    "a text in the bytes of weights": (signed(text_in_weights), "holds a text .hf_AbC"),
    "rows of the source task": (nine_rows(*"012345"), "the classes 0, 1, 2, 3, 4 of the forgotten task"),
    "rows without names": (nine_rows(*(f"LABEL_{i}" for i in range(3, 9))), "rows of no class that is kept: 9 rows"),
    "source labels in the settings": (signed(in_json("config.json", source=["cat"])), "has the key source"),
    "labels of another task": (
        signed(in_json("config.json", task_specific_params={"id2label": {"0": "cat"}})), "key task_specific_params",
    ),
    "a head in the settings": (
        signed(in_json("config.json", image_size=torch.randn(6, 64).tolist())), "does not load|values besides",
    ),
    "where the model came from": (signed(in_json("config.json", _name_or_path="ann/undisposed")), "_name_or_path"),
    "source labels of the processor": (
        signed(in_json("preprocessor_config.json", labels=["cat"])), "preprocessor_config.json has the key labels",
    ),
    "words under the name of a processor's method": (
        signed(in_json("preprocessor_config.json", push_to_hub={"HOLDS: verified": 1})), "the key push_to_hub",
    ),
    "a picture that fills the memory": (
        signed(in_json("preprocessor_config.json", size={"height": 60_000, "width": 60_000})), "60000 pixels wide",
    ),
    **{
        f"a picture of nothing, {key} {value}": (
            signed(in_json("preprocessor_config.json", **{key: value})), "of the model (makes no picture|cannot proc)",
        )
        for key, value in (("image_std", [0.0] * 3), ("image_std", [0.5, 0.5, -0.5]), ("image_std", [1e-30] * 3),
                           ("image_std", [1e30] * 3), ("image_mean", [1e30] * 3), ("rescale_factor", 0.0))
    },
    "a picture without numbers": (
        signed(in_json("preprocessor_config.json", image_std=[float("nan")] * 3)), "NaN is no finite number",
    ),
    "a file's name that steers a terminal": (
        lambda f: (f / "x\n\x1b[2KHOLDS.txt").write_text("x"), "a name that steers a terminal",
    ),
    "code deep in the settings": (in_json("config.json", vision={"auto_map": {}}), "asks for code of its own"),
    "code in large letters": (in_json("config.json", AUTO_MAP={}), "asks for code of its own"),
    "code of the processor": (
        write("processor_config.json", '{"image_processor": {"auto_map": {"AutoImageProcessor": "evil.E"}}}'),
        "processor_config.json asks for code",
    ),
    "a head in the report": (settings(images={"a": torch.randn(6, 64).tolist()}), "numbers .* could be a head"),
    "a head as text": (settings(note=HEAD), "holds a block of encoded data"),
    "an unknown picture": (lambda f: Image.new("RGB", (9, 9)).save(f / "plots" / "my_cat.png"), "my_cat.png is not"),
    "an archive of plots": (write("plots/a.zip"), "a pickle or an archive"),
    "a hidden head": (write(".head.safetensors"), "is not part of a published model"),
    "a folder of git": (write(".git/config"), "is not part of a published model"),
    "large letters": (write("pytorch_model.Bin"), "a pickle or an archive"),
    "a path in angle brackets": (words("see </home/ann/run>"), "local folder"),
    "another machine": (words("sftp://lab.example/run"), "local folder: sftp"),
    "a user of another machine": (words("ann@lab.example:/scratch"), "holds a user name"),
    "a remote folder": (words("vscode-remote://ssh-remote+lab/x"), "local folder"),
    "an escaped path": (words("%2Fhome%2Fann%2Frun"), "local folder"),
    "a key of Weights & Biases": (words("WANDB_API_KEY=" + "a1b2" * 10), "holds a key or password"),
    "a Slack token": (words("xoxb-1234567890-abcdefghijkl"), "holds a Slack token"),
    "a Google key": (words("AIza" + "B" * 35), "holds an API key"),
    "a web token": (words("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc123abc123"), "a JSON web token"),
    "an AWS secret": (words("aws_secret_access_key = " + "Ab1/" * 10), "holds an AWS key"),
    "a token with a gap": (words("hf_" + "\u200b" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"), "a Hugging Face token"),
    "a script": (words("<script>alert(1)</script>"), "own words. Write them in plain"),
    "a frame": (words("<img src=x onerror=alert(1)>"), "own words. Write them in plain"),
    "a link that runs": (words("[click](javascript:alert(1))"), "own words. Write them in plain"),
    "a picture that counts readers": (words("![x](https://evil.example/p.png)"), "own words. Write them in plain"),
    "a comment that hides the rest": (in_card("<!-- x\n# Scrubbed", "# Scrubbed"), "README.md says"),
    "the task's name in the settings": (signed(in_json("config.json", finetuning_task="styles")), "key finetuning"),
    "a user in a version": (
        signed(in_json("config.json", transformers_version="5.23.0 ann@laptop")), "transformers_version: '5.23.0 ann",
    ),
    "a second architecture": (
        signed(in_json("config.json", architectures=["ViTForImageClassification", "ViTModel"])), "says architectures",
    ),
    "an architecture of nobody": (signed(in_json("config.json", architectures=["AnnSmith"])), "architectures: 'AnnSm"),
    "a stage of nobody": (signed(in_json("config.json", stage_names=["stem", "ann"])), "stage_names: 'ann'"),
    "a text for an activation": (signed(in_json("config.json", pooler_act="patient 4711")), "no word of|not load"),
    "a processor of nobody": (
        signed(in_json("preprocessor_config.json", processor_class="AnnSmith")), "processor_class: 'AnnSmith'",
    ),
    "numbers that nothing reads": (
        signed(in_json("preprocessor_config.json", do_center_crop=False, crop_size=[97108] * 99)), "the key crop_size",
    ),
    "a number of 40 digits": (signed(in_json("config.json", image_size=10**40)), "the number 1000|not load"),
    "blanks in the settings": (signed(rewritten(lambda text: text.replace(": ", ":\t ", 3))), "as `save_pretrained`"),
    "digits beyond a number's": (
        signed(rewritten(lambda text: text.replace("1e-12", "1.00000000000000000097108e-12"))), "as `save_pretrained`",
    ),
    "an order that is a code": (header(other_order), "an order of its own"),
    "a token for a label": (named("hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567", "b", "c"), "label .* Hugging Face"),
    "a home in a label": (named("T, patient 4711 of /home/ann", "b", "c"), "label .* local folder"),
    "a token in Markdown": (words("hf\\_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"), "a Hugging Face token"),
    "a token in two parts": (words("hf_AbCdEfGhIj**KlMnOpQrStUvWxYz**01234567"), "a Hugging Face token"),
    "a token as entities": (words("hf&#95;AbCdEfGhIjKlMnOpQrStUvWxYz01234567"), "a Hugging Face token"),
    "a path as entities": (words("&#47;home&#47;ann&#47;run"), "local folder"),
    "a path of look-alikes": (words("\u2044home\u2215ann\u2215run"), "local folder"),
    "a path in a link": (words("[x](https://a.example/%2Fhome%2Fann%2Frun)"), "local folder"),
    "invisible letters": (words("Hello" + "".join(chr(0xE0000 + ord(c)) for c in "ann")), "nobody sees .U.E0061"),
    "a code of variants": (words("a" + "\ufe00\ufe01" * 9), "nobody sees"),
    "a text turned around": (words("see \u202enna/emoh/"), "nobody sees .U.202E"),
    "an invisible letter in a setting": (settings(source_dataset="mnist[0-5]\u2060"), "nobody sees"),
    "words behind a reference": (words("[x]: https://a.example 'patient 4711'"), "defines the reference"),
    "a machine by its number": (words("made on 10.11.12.13"), "machine of a private network: 10.11"),
    "a machine by its name": (settings(notes=["ann-laptop.corp.internal"]), "machine of a private network: ann"),
    "the host in the report": (own_report(machine={"hostname": "lab7"}), "has machine.hostname"),
    "the host as a processor": (own_report(machine={"device": "ann-laptop"}), "says machine.device"),
    "the host in a version": (own_report(machine={"torch": "2.13.0+ann.laptop"}), "says machine.torch"),
    "a setting of nobody": (settings(secret="x"), "has settings.secret"),
    "a setting of no method": (settings(disposal={"secret": 7}), "settings.disposal.secret, which is no option"),
    "a setting of no attacker": (settings(audit={"secret": 7}), "has settings.audit.secret"),
    "a key of the spec": (own_report(spec={**SPEC, "patients": "4711"}), "has spec.patients"),
    "a sentence for a choice": (settings(reference="patient 4711 of ward 3"), "says settings.reference"),
    "a head as a licence": (
        write("LICENSE", "\n".join(HEAD[i : i + 64] for i in range(0, len(HEAD), 64))), "LICENSE holds a block of",
    ),
    "a text by its bytes": (words("made by " + WARD.hex()), "an encoded text .patient 4711"),
    "a text in letters": (settings(notes=[base64.b64encode(WARD).decode()]), "an encoded text"),
    "a text in groups": (words(" ".join(re.findall(".{1,8}", base64.b32encode(WARD).decode()))), "an encoded text"),
    "an address in a note": (settings(notes=["ask ann@lab.example"]), "says settings.notes"),
    "a sentence for a language": (metadata(lambda content: content.update(language="patient 4711")), "says language"),
    "a number that is a text": (settings(steps=int.from_bytes(b"patient 4711")), "says settings.steps"),
    "a token in cells": (words("| hf_AbCdEfGhIjKl | MnOpQrStUvWxYz01234567 |\n|:--|:--|"), "a token in parts"),
    "a token in lines": (words("- ghp_AbC1dEfGhI2j\n- KlMnOpQrSt3vWxYz01234567"), "a token in parts"),
    "a password in a sentence": (words("The login is ann, password: hunter2secret"), "holds a password"),
    "a password in German": (write("LICENSE", "Das Passwort ist hunter2!"), "LICENSE holds a password"),
    "a password by its short name": (words("pwd=correcthorse"), "holds a password"),
    "an Azure key": (words("AccountKey=" + "aB1+" * 20 + "=="), "holds a key or password"),
    "a Telegram token": (words("123456789:AAF" + "b1" * 16), "holds a bot's token"),
    "a Telegram token of another length": (words("bot 110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"), "a bot's token"),
    "a login of Weights & Biases": (words("wandb login 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"), "a login's key"),
    "a login in netrc": (write("LICENSE", "netrc has " + "9f86d081" * 5), "LICENSE holds a login's key"),
    "a public key": (words("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7x ann@laptop"), "a public key with its owner"),
    "a login of another machine": (words("see `ssh -p 22 ann@gpu07`"), "a user name"),
    "somebody's card": (own_report(machine={"device": "NVIDIA H100 ann"}), "says machine.device"),
    "a home by its variable": (words("see $HOME/private/photos"), "local folder: .HOME"),
    "a home of Windows": (words("see %USERPROFILE%\\private"), "local folder: %USER"),
    **{
        f"a picture from elsewhere, {text}": (words(f"Look: {text}"), "in the publisher's own words")
        for text in ("![x](//a.example/p.png)", "![x](&#x68;ttps://a.example/p.png)", "![x](https\\://a.example/p.png)",
                     "![[x]](https://a.example/p.png)", "![x\\]y](https://a.example/p.png)", "![x](../other.png)",
                     "![`]`](https://a.example/p.png)", "[x](&#106;avascript:alert(1))")
    },
    "rows of the source task under a report of another kind": (
        nine_rows_of_a_part, "has the parts of one of the kind 'part'|the forgotten task",
    ),
    "a token in a link's title": (
        words('[x](https://a.example "hf\\_AbCdEfGhIjKlMnOpQrStUvWxYz01234567")'), "holds a Hugging Face",
    ),
    "a token among letters that are no code": (
        words("&#96;hf\\_AbCdEfGhIjKlMnOpQrStUvWxYz01234567&#96;"), "holds a Hugging Face",
    ),
    "a verdict in a link's title": (
        words('[x](https://a.example "&#86;erified by us")'), "is a word of the report",
    ),
    "a box of the Hub's": (words("[!IMPORTANT]\nIt was checked by us."), "in the publisher's own words"),
    "a model in words": (words("abcd efgh " * 2500), "has 24,999 letters, more than 20,000"),
    "a model in a licence": (write("LICENSE", "abcd efgh " * 6000), "60,000 letters, more than any"),
    "a model in notes": (settings(notes=["abcd efgh " * 150] * 40), "letters, more than .*: they could be a head"),
    "a model in a list": (settings(augmentation=[f"{i:04x}" for i in range(300)]), "numbers and texts in its"),
    "a text for a shard": (
        lambda folder: (folder / WEIGHTS).rename(folder / "model-LEAKS-of-NONE!.safetensors"),
        "is not part of a published model",
    ),
    "a home without a root": (words("see home/ann/private"), "local folder: home"),
    "a home of Windows with a stroke": (words("`\\Users\\ann\\Desktop\\photos`"), "local folder: .Users"),
    "a cluster's folder": (words("see $SCRATCH/ann/run7"), "local folder: .SCRATCH"),
    "a folder of another machine": (words("see ann@gpu01:runs/7"), "a user name"),
    "a machine of a private network": (words("see 100.64.21.21"), "machine of a private network: 100"),
    "a home of Windows without a drive": (words("`Users\\ann\\Desktop\\photos`"), "local folder: Users"),
    "a folder of a drive": (words("`C:photos\\ann`"), "local folder: C:photos"),
    "a folder above": (words("see ../../ann/private"), "local folder: ../.."),
    "a free option of a command": (settings(command="python scripts/make_example.py --note ann"), "'--note ann'"),
    "a secret in a command": (settings(command="hf-dtl forget --model https://a.example/?t=x"), "'--model https"),
    **{
        f"a secret in words, {text[:16]}": (words(f"See {text} for it."), f"holds {what}")
        for text, what in {
            "https://a.example/?t=%68%66_AbCdEfGhIjKlMnOpQrStUvWxYz01234567": "a Hugging Face token",
            "api_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh": "a Hugging Face token",
            "https://discord.com/api/webhooks/123456789012345678/AbCdEfGhIjKlMnOpQrStUvWxYz": "a webhook",
            "a.blob.core.windows.net/c?sv=2021&sig=AbCdEfGhIjKlMnOpQrStUvWxYz%3D": "a signed address",
            "SG.AbCdEfGhIjKlMnOpQrStUv.AbCdEfGhIjKlMnOpQrStUvWxYz01234567": "a SendGrid key",
            "SK0123456789abcdef0123456789abcdef": "a Twilio",
            "AC0123456789abcdef0123456789abcdef": "a Twilio",
            "AGE-SECRET-KEY-1" + "Q" * 58: "an age key",
        }.items()
    },
    **{
        f"a token for a label, {text[:5]}": (named(text, "b", "c"), "has the label .* holds a")
        for text in ("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", "ghp_QmZrTkWvXsLpBnYcDgHjFaEuOiRwKtMxPzAb",
                     "AKIAIOSFODNNQEXAMPLE", "https://ann:secret@lab.example")
    },
    **{
        f"a token of a service, {text[:4]}": (words(f"with {text}"), "holds a service's token")
        for text in ("dckr_pat_x7Kq2LmN9pRs4TuVw8YzA1bC", "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",
                     "nvapi-q8Zt5RwXk2LmN7pVs4TuYb9CdE", "hvs.CAESIJ7kQ2mN9pRs4TuVw8YzA1bC")
    },
    "a password behind a label": (named_and_said("password", "password: hunter2secret"), "holds a password"),
    **{
        f"a folder of {text.split('/')[0]}": (words(f"see {text}"), "local folder")
        for text in ("s3://ann/photos", "gs://ann/photos", "hdfs://nn/user/ann", r"`\\wsl$\Ubuntu\ann`")
    },
    "a text for a version": (
        signed(in_json("config.json", transformers_version=f"5.{int.from_bytes(WARD)}")), "transformers_version: '5",
    ),
    "a text for Python's version": (own_report(machine={"python": "3.114101103.7"}), "says machine.python"),
    "a text for the library's version": (own_report(library_version="0.1.0.post114101103"), "says library_version"),
    "a comment in the metadata": (in_card("# patient 4711\nlibrary_name:", "library_name:"), "the comment '# patient"),
    "a script of their own": (settings(command="python ann/of/ward.py"), "says settings.command"),
    "a head in the keys of membership": (
        changed_report(lambda c: c.update(membership=[LOSS | {f"h{i}": 0.1 for i in range(96)}])), "`h0` .* no part",
    ),
    "a head in rows of membership": (
        changed_report(lambda c: c.update(membership=[LOSS | {"auc": i / 96} for i in range(96)])), "several rows of",
    ),
    "a head in curves": (
        of_records(lambda i: {"effort": 1, "curve": [[1 + j, 0.0, j / 96] for j in range(96)]}), "at most 16, asc",
    ),
    "a head in learning rates": (rates, "learning rates, more than 32: they could be a head"),
    "a text in the margin": (own_report(target_margin=0.0497108101114103), "finer than anybody measures"),
    "weights as a private model's words": (
        said("outputs:256", torch.randint(256, (999, 3), generator=torch.Generator().manual_seed(0))),
        "codes are no rounded probabilities",
    ),
    "words as long as the weights": (said("labels", torch.arange(299_999) % 3), "a whole model could be in it"),
    "words of a method that hears none": (
        said("labels", torch.arange(9) % 3, "representation_erasure"), "has no channel that it counts",
    ),
    "a link inside the folder": (linked, "LICENSE is a link, to .*config.json"),
    "a head in a notice": (
        write("NOTICE", "Copyright. " + " ".join(f"{i / 96:.4f}" for i in range(96))), "more numbers than any licence",
    ),
    "a head in a notice of many words": (
        write("NOTICE", " or ".join(f"{i / 96:.4f}" for i in range(96))), "more numbers than any licence",
    ),
    "a sentence for a command": (settings(command="made for patient 4711; see ward 3"), "says settings.command"),
}  # fmt: skip
HIDDEN |= TWINS
"""Leaks: in files that were audited with them, or written afterwards; and the private model in other weights."""
CLAIMS = {
    "another activation": (in_json("config.json", hidden_act="relu"), "to these weights: config.json is not"),
    "other heads of attention": (in_json("config.json", num_attention_heads=4), "config.json is not the file"),
    "a wrecked norm": (in_json("config.json", layer_norm_eps=1e3), "config.json is not the file"),
    "another order of labels": (
        in_json("config.json", id2label={"0": "8", "1": "6", "2": "7"}, label2id={"8": 0, "6": 1, "7": 2}),
        "config.json is not the file",
    ),
    "an empty processor": (write("preprocessor_config.json", "{}\n"), "preprocessor_config.json is not the file"),
    "another mean": (in_json("preprocessor_config.json", image_mean=[9.0] * 3), "preprocessor_config.json is not"),
    "another verdict": (
        body(lambda text: re.sub(r"> \*\*Verdict\.\*\*.*", "> **Verdict.** Nothing is left.", text)),
        "README.md says '> ..Verdict... Nothing is left.",
    ),
    "better tables": (body(lambda text: re.sub(r"0\.[4-9]\d+", "0.000", text)), "README.md says"),
    "another text": (body(lambda text: "\n# A safe model\n\nIt leaks nothing.\n"), "README.md says '# A safe model'"),
    "words before the report": (in_card("Certified.\n\n> **Verdict", "> **Verdict"), "README.md says 'Certified.'"),
    "false results first": (metadata(false_results_first), "metadata of README.md say model-index"),
    "a result of their own": (metadata(own_result), "metadata of README.md say model-index"),
    "a key twice": (
        in_card("unlearning:\n  leakage: {mean: 0.0}\nunlearning:\n", "unlearning:\n"), "'unlearning' stands twice",
    ),
    "other labels in the card": (in_card("- Labels: cat, dog", "- Labels: 6, 7, 8"), "says '- Labels: cat, dog'"),
    "own tags": (metadata(lambda content: content["tags"].append("certified")), "metadata of README.md say tags"),
    "a weaker strongest attack": (
        changed_report(lambda c: c["leakage"]["strongest_attack"].update(accuracy=0.01)), "strongest_attack.accuracy",
    ),
    "no leakage attack by attack": (first_axis(by_attack={}), "leakage axes.source_subset.by_attack"),
    "no PL accuracy": (first_axis(pl_accuracy=[]), "leakage axes.source_subset.pl_accuracy"),
    "no area": (first_axis(slc_auc={}), "leakage axes.source_subset.slc_auc"),
    "no axes": (leakage_of(axes={}), "leakage axes.source_subset"),
    "a note of their own": (leakage_of(note="certified"), "leakage note 'certified', not 'nothing'"),
    "another gap": (leakage_of(gap=9.0), "leakage gap 9.0"),
    "another confidence": (leakage_of(confidence=1.0), "leakage confidence"),
    "another mean of the leakage": (leakage_of(mean=0.01), "leakage mean 0.01"),
    "no number": (leakage_of(mean=float("nan")), "NaN is no finite number"),
    "an accuracy lowered": (
        changed_report(lambda c: next(r for r in c["piggyback"] if r["model"] == "scrubbed").update(accuracy=0.01)),
        "leakage mean .* not",
    ),
    "the leakage twice": (
        lambda f: (f / REPORT).write_text('{"leakage": {"mean": 0.0},' + (f / REPORT).read_text().lstrip()[1:]),
        "'leakage' stands twice",
    ),
    "a verdict in their words": (words("## Verdict\n\nNothing is left."), "has 'Verdict', which is a word of"),
    "a word in their words": (words("This model has for**gotten** everything."), "has 'forgotten'"),
    "a word of look-alikes": (words("F\u041eRG\u041eTTEN"), "has 'FORGOTTEN'"),
    "a suite in their words": (words("Seen by standard-1."), "has 'standard-1'"),
    "a number in their words": (words("| leakage | 0.000 |\n|:--|:--|"), "has 'leakage . 0"),
    "authors who verify": (metadata(lambda content: content.update(authors=["verified by x"])), "'verified'"),
    **{
        f"a word of the report as {text}": (words(text), "which is a word of the report")
        for text in ("ꜰᴏʀɢᴏᴛᴛᴇɴ", "ꓝꓳꓣꓖꓳꓔꓔꓰꓠ", "f0rg0tten", "f o r g o t t e n", "F-O-R-G-O-T-T-E-N", "ver i fied",
                     "for-gotten", "v\u0336erified", "🅵🅾🆁🅶🅾🆃🆃🅴🅽", "ʜᴏʟᴅꜱ", "not_shown", "H0LDS",
                     "ѵегі𝖿іеԁ", "leakage: none")
    },
    **{
        f"a claim, {text}": (words(text), "which is a word of the report")
        for text in ("The model forgot it all", "It forgets everything", "word: gone", "verifiably gone",
                     "All traces of the private task were erased", "Erased for good")
    },
    "a column that claims": (settings(image_column="all_traces_erased"), "has 'traces erased'"),
    **{
        f"a formula, {text}": (words(text), "own words. Write them in plain")
        for text in (r"$\mathrm{veri}\mathrm{fied}$", "$$for$$", r'$\char"48$', r"\\(x\\)")
    },
    "another suite in the settings": (settings(suite="standard-1"), "says settings.suite = 'standard-1', and its"),
    "other draws in the settings": (settings(audit={"seeds": [5, 6, 7]}), "says settings.audit.seeds = .5, 6, 7"),
    "other budgets in the settings": (settings(audit={"budgets": [500]}), "says settings.audit.budgets = .500"),
    "other data in the settings": (
        own_report(spec={**SPEC, "retain": "mnist[7-9]"}), "settings.target_dataset = mnist.6-9., and spec.retain",
    ),
    "a licence that verifies": (metadata(lambda c: c.update(license_name="forgotten-standard-1-verified")), "'forgot"),
    "a licence's address that verifies": (
        metadata(lambda c: c.update(license="other", license_link="https://e.example/verified-HOLDS")), "'verified'",
    ),
    "a licence that forgets": (metadata(lambda content: content.update(license="forgotten")), "license has 'forgot"),
    "a label that verifies": (named("forgotten by standard-1", "b", "c"), "The label .* has 'forgotten'"),
    "a method that verifies": (own_report(method="verified-forgotten"), "method has 'verified'"),
    "a method that was audited": (own_report(method="independent_audit_passed"), "method has 'audit passed'"),
    "a method that passed": (own_report(method="passed_audit"), "method has 'passed audit'"),
    **{
        f"a method of nobody, {name}": (own_report(method=name), "in it is a claim")
        for name in ("total_erasure_proven", "lab_tested_zero_recovery", "TotalErasure", "scrub/zero_recovery")
    },
    "another method in the command": (
        command_of("hf-dtl forget --method retrain_from_nothing"), "settings.command with --method = retrain"
    ),
    **{
        f"data in a command, {option}": (
            command_of(f"python scripts/make_example.py --{option} faces[ann,bob]"),
            f"settings.command with --{option} = faces.ann,bob., and spec.{name} = ",
        )
        for option, name in (("forget", "forget"), ("source_dataset", "forget"), ("retain", "retain"))
    },
    **{
        f"the card's form, {text.split()[-1]}": (words(text), "as the report's part of a card has")
        for text in ("## What an independent audit measured", "**What was measured**", "Limits\n---",
                     "# Attacks on me", "| | undisposed | scrubbed |\n|:--|--:|--:|\n| accuracy | 1.000 | 0.000 |",
                     "| what | value |\n|:--|--:|\n| l\u0435akage over the best floor | none |")
    },
    "a licence's file that claims": (
        write("LICENSE", "This model is forgotten by standard-1. hf_dtl verified it."), "LICENSE has 'forgotten'",
    ),
    "a licence's file with a table": (
        write("LICENSE.md", "| | undisposed | scrubbed |\n|:--|--:|--:|\n| a | 1 | 0 |"), "LICENSE.md has the table",
    ),
    "a verdict for a method": (own_report(method="FORGOTTEN"), "method has 'FORGOTTEN'"),
    "a promise for an option": (foreign({"nothing_left": True}), "'nothing' in it is a claim, no setting"),
    "a word of the report for an option": (foreign({"certified_forgotten": 1}), "disposal.* has '"),
    "smaller images than the model takes": (settings(image_size=4), "images of 4 pixels, and the processor beside"),
    "a word of the report for images": (settings(images={"source": {"verified_forgotten": 1}}), "images.* has '"),
    "a licence with markup": (write("LICENSE.md", "MIT\n\n<div>x</div>"), "LICENSE.md holds '<div"),
    "a promise for a method": (own_report(method="nothing-to-find-at-all"), "'nothing' in it is a claim"),
    "a sentence for a method": (own_report(method="nothing is left (safe)"), "says method"),
    "a note that verifies": (settings(notes=["Verified by an independent laboratory."]), "notes has 'Verified'"),
    "data that are a verdict": (settings(source_dataset="mnist, not shown"), "source_dataset has 'not shown'"),
    "guessing that is better than it can be": (
        own_report(chance={"mnist[0-5]": 1 / 2, "fashion_mnist": 0.1}), "0.5 as chance .*is no 1/classes",
    ),
    "a sentence for a model": (
        settings(base_model="nothing is left of the source, as others measured"), "says settings.base_model",
    ),
    "a sentence in the keys of membership": (
        changed_report(lambda c: c.update(membership=[LOSS | {"nothing is left": 1}])), "`nothing is left` .* no part",
    ),
    "a sentence for an attacked model": (
        changed_report(lambda c: c.update(membership=[LOSS | {"model": "nobody found anything"}])), "`model` .* one",
    ),
    "a sentence for an attack": (
        changed_report(lambda c: c.update(membership=[LOSS | {"attack": "any in the world"}])), "`attack` .* one of",
    ),
    "guessing that is right": (own_report(chance={"mnist[0-5]": 0.99, "fashion_mnist": 0.99}), "chance"),
}  # fmt: skip
"""What report or card say and was not measured."""
BROKEN = {
    "settings too deep": (write("config.json", '{"a":' * 100_000 + "1" + "}" * 100_000), "nested too deep"),
    "a report too deep": (write(REPORT, '{"settings": ' + "[" * 100_000 + "]" * 100_000 + "}"), "nested too deep"),
    "labels as a list": (in_json("config.json", label2id=["6"]), "must hold objects|does not load"),
    "labels as a number": (in_json("config.json", id2label=3), "does not load|must hold objects"),
    "settings without a number": (in_json("config.json", layer_norm_eps=float("nan")), "NaN is no finite number"),
    "a note without a number": (
        changed_report(lambda c: c["settings"].update(x=float("nan"))), "NaN is no finite number",
    ),
    "settings of other letters": (write("config.json", b"\xff\xfe{}"), "not readable as JSON"),
    "a seed of 3,000 digits": (
        lambda f: (f / REPORT).write_text((f / REPORT).read_text().replace('"seed": 0', '"seed": ' + "9" * 3000, 1)),
        "an integer in",
    ),
}  # fmt: skip


INNOCENT_LABELS = (
    ("password", "gone", "Bearer of Electroencephalograms"), ("$", "$$", "#1"),
    ("/m/01g317", "/m/04rky", "/m/0jbk"), ("and/or", "T-shirt/top", "24/7"), ("/r/aww", "/r/cats", "/r/dogs"),
    ("猫/犬", "собака", "ζώο"), ("~5 years/old", "a~b", "c"), ("/home", "/back", "/menu"), ("/data", "y", "z"),
    ("C:/", "D:/x", "E:"), ("w/ mask", "w/o mask", "n/a"), ("hf_cat", "sk-learn", "Bearer of bad news"),
    ("a|b", "c`d", "e<f>g"), ("pass:word@x", "ftp://a", "http://a/b"), ("n02123045 /n/n02123045", "b", "c"),
    ("/opt-out", "in", "x"), ("km/h", "m/s", "1/2"), ("sk-inflammation-of-the-upper-layer", "b", "c"),
    ("٣", "४", "三"), ("{{7*7}}", "{% x %}", "\\n"), ("a\nb", "c\td", " "), ("leak", "no leak", "leaks"),
)  # fmt: skip
INNOCENT = {
    **{f"labels {labels!r}": named(*labels) for labels in INNOCENT_LABELS},
    "classes of the data": settings(source_dataset="openimages[/m/01g317,/m/04rky]"),
    "a licence": write("LICENSE", "Apache License 2.0, http://www.apache.org/licenses/"),
    "a licence that speaks of law": write(
        "LICENSE",
        "## 4. Limitation\nYou must verify that certificates are valid, and hold harmless whoever holds them.",
    ),
    "a paper and a table of their own": words(
        "## Citation\n\nSee [it](https://a.example).\n\n| split | n |\n|--|--|\n| a | 5 |"
    ),
    "images as a run counts them": settings(images={"forgotten_validation": 5, "forget": {"train": 3}}),
    "a method of another package": own_report(method="their_zero_shot_eraser:strength=2"),
    "a commit in their words": words(
        "Made at 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b of our code; ask ann@example.org."
    ),
    "a command of this data": settings(
        command="hf-dtl forget --forget mnist[0-5] --retain 'mnist[6-9]' --method gradient_collision"
    ),
    "a graphics card": own_report(machine={"device": "NVIDIA A100-SXM4-40GB MIG 3g.20gb"}),
    "a clone of the Hub": write(".gitattributes", "*.safetensors filter=lfs"),
    "a download of the Hub": write(".cache/huggingface/download/config.json.metadata", "a"),
    "words of their own": words("## Thanks\n\nTo [the Hub](https://huggingface.co/docs), <https://a.example>, 5 < 6."),
    "words near those of the report": words(
        "Over dictionary words, hf_dtl 0.1.0 with `ViT16B` holds 3 files in home/ and ../data; a password is needed.\n"
        "Les verres sont fermés, für Größe 5 s. Patches are erased at random; we forgot to say it costs $5 or 100%.\n"
        "A network forgets old tasks, see forget-me-not; 3# is gone from the shelf."
    ),
    "their licence": metadata(lambda content: content.update(license="mit", language="en")),
    "what a private model said": said("outputs:16", torch.tensor([[15, 0, 0], [5, 5, 5], [0, 7, 8], [9, 4, 3]])),
    "membership as it is measured": own_report(
        membership=[
            asdict(MembershipResult(model, "loss", way, 0.61, 0.02, 0.55, None, 0.6, 0.5, 90, 90))
            for model in ("undisposed", "scrubbed")
            for way in ("retain", "cross_validation")
        ]
    ),
    "a folder with blanks": settings(base_model="my model (2)"),
    "a notice of many years": write(
        "NOTICE", f"Copyright (c) {', '.join(map(str, range(1985, 2027)))} The Authors. All rights reserved."
    ),
    "a card without pictures": lambda folder: write_card(folder, LeakageReport.load(folder / REPORT), plots=False),
}


PLANTS = HIDDEN | CLAIMS | BROKEN
assert len(PLANTS) == len(HIDDEN) + len(CLAIMS) + len(BROKEN) and MARKER
