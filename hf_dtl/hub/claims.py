"""What a report and a card say that nobody measured: names in the forms that this library writes, and no verdict."""

import itertools
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any

from hf_dtl.audit import AttackConfig, LeakageReport
from hf_dtl.audit.report_fields import DEVICE
from hf_dtl.errors import ConfigError, PublishError
from hf_dtl.hub.markdown import outline, readings
from hf_dtl.methods.by_name import own_fields
from hf_dtl.methods.registry import find_method

IMITATED = re.compile(
    r"\bverdict|\bforgotten\b(?!\s+(?:\w+\s+)?(?:images?|class|classes|tasks?|data|rows?|part|ones?|label)\b)|\bnot[\s_-]*shown\b"
    r"|\bleaks?\b|\bleakage\W{0,9}(?:\w+\W+){0,3}\d|\bleakage\W{1,9}(?:none|nil|zero)\b|\bverif(?:y|ie[ds]|ication)|\bcertif|\bPL[\s_-]*accuracy"
    r"|\b(?:(?:standard|quick)[\s-]*\d|full-\d\b)|\baudit[\s-]*passed"
    r"|\bpassed\W?(?:(?:the|an|our|every)\W)?audits?\b|\battacked by\b|\baudited by\b|\b(?-i:HOLDS?)\b"
    r"|\b(?:it|(?:this|the|our|my)\s+\w+)\s+(?:\w+ly\s+)?forg(?:ot|ets)\b(?!\s+to\b)"
    r"|\bforg(?:ot|ets)\s+(?:it|all|every\w*)\b|\b(?:gone|erased)\s+(?:for\s+good|for\s*ever)\b"
    r"|\b(?:verifiab|complete|ful|total|entire|whol|permanent|irrecoverab|irreversib|real|tru|final)ly\s+(?:gone|erased)\b"
    r"|\b(?:traces?|tasks?|class|classes|knowledge|memory|everything|all)\s+(?:(?:is|are|was|were|been|has|have|now)\s+){0,3}"
    r"(?:gone|erased)\b|:\W{0,3}(?:gone|erased)\b",
    re.IGNORECASE,
)
"""Words of the report; whoever reads them elsewhere takes them for measured."""
_APART = re.compile(
    r"(?<!\w)(?:"
    + "|".join(
        r"[\W_]{0,3}".join(word)
        for word in ("forgotten", "verdict", "verified", "verifies", "verification", "certified", "certificate")
    )
    + r"|(?-i:H[\W_]{1,3}O[\W_]{1,3}L[\W_]{1,3}D[\W_]{1,3}S))(?!\w)",
    re.IGNORECASE,
)
"""The same words, their letters kept apart."""
_DIGITS = str.maketrans("013457$@", "oieastsa")
_OF_THE_CARD = {
    "heading": re.compile(
        r"(?i)(?:.*\b(?:audit\w*|measure[ds]?|measurements?|attack\w*|leak\w*|piggyback)\b.*"
        r"|what was done|limits|reproduce|from the publisher|membership inference.*|(?:effort|unlearning) .*)"
    ),
    "table": re.compile(
        r"(?i)undisposed|scrubbed|retrained|no_model|leakage.*|PL accuracy.*|images/class|(?:attack|steps) \(.*"
        r"|SLC-AUC|UIS|membership AUC|relearned"
    ),
}
"""Headings of the card's own sections and tables, and heads of its columns and rows."""
_PROMISE = re.compile(
    r"(?i)\b(?:prov(?:en|ed|ably|able)|total|totally|zero(?! shot)|tested|guarante\w+|certif\w*|erased|recover\w*"
    r"|irrecover\w*|irrevers\w*|permanent\w*|complete(?:ly)?|perfect(?:ly)?|audited|verif\w*|no|nothing|none|never|safe"
    r"|clean(?:ed)?|left|gone|remains?|removed|leak\w*)\b"
)
"""Words by which the name of a method would be a claim."""
NAME = re.compile(r"[\w.+-]+(?:/[\w.+-]+)?(?::[\w.,=+-]+)*")
"""Of a method, with its options, or of a model; no sentence."""
_BUILD = r"(?:\+(?:cpu|xpu|git|cu\d+|rocm[\d.]+|[\da-f]{7,40})(?:\.nv[\d.]+)?)?"
VERSION = r"\d{1,4}(?:\.\d{1,4}){1,3}(?:\.?(?:dev20\d{6}|(?:dev|rc|a|b|post)\d{0,4}))?"
"""Of a library, of numbers too short for a text."""
MACHINE = {
    "device": DEVICE,
    **dict.fromkeys(("python", "torch", "transformers"), re.compile(VERSION + _BUILD)),
    **dict.fromkeys(("threads", "processes"), re.compile(r"\d{1,6}")),
}
"""What a report may say of a machine, key by key."""
_DATA = {
    *(f"{role}_{what}" for role in ("source", "target", "novel") for what in ("dataset", "label_column")),
    *(f"{role}_label_column" for role in ("forget", "retain", "novel")),
    "dataset", "forget", "forget_tasks", "image_column", "label_column", "novel", "retain", "task_columns",
    "transfer_dataset",
}  # fmt: skip
_ROLES = ("undisposed", "scrubbed", "scratch", "retrained", "base", "model", "twin")
_MODELS = {
    *_ROLES, *(f"{role}_adapter_of" for role in _ROLES), *(f"{role}_revision" for role in _ROLES), "adapter_of",
    "base_model", "commits", "image_processor", "processor", "revision",
}  # fmt: skip
_CHOICES = {
    "adapt_epochs", "adapt_learning_rate", "architecture", "attacks", "audit", "augmentation", "background",
    "batch_size", "bf16", "budgets", "channel", "disposal", "forget_all", "forget_batch_size",
    "forget_images_per_class", "forget_weight", "full_learning_rates", "head_by_position", "image_size", "images",
    "images_per_class", "learning_rate", "linear_probe_learning_rates", "lora_learning_rates", "lora_rank",
    "max_eval_images", "max_stack", "max_train_images_per_class", "membership", "novel_images_per_class", "reference",
    "retain_images", "retain_images_per_class", "retrain", "retrain_batch_size", "retrain_epochs",
    "retrain_learning_rate", "scratch_from_scrubbed", "seed", "seeds", "source_images_per_class", "steps",
    "successive_halving", "suite", "target_images_per_class", "target_margin", "train_epochs", "train_learning_rate",
    "transfer_images", "use_cpu",
}  # fmt: skip
SETTINGS = _DATA | _MODELS | _CHOICES | {"command", "notes"}
"""Keys of a report's settings."""
SPEC = _DATA | _CHOICES | {"kind", "pool", "retain_pool", "test"}
"""The same of its spec."""
_CHOICE = re.compile(r"[\w.:=+/#-]{0,200}(?:, ?[\w.:=+/#-]{1,200}){0,99}")
_MODEL = re.compile(r"[\w.,+/@=()-]{1,200}(?: [\w.,+/@=()-]{1,60}){0,2}")
"""An id, or the name of a folder, which may have blanks; no sentence."""
_LINE = re.compile(r"[^\n]{0,4000}")
_NOTE = re.compile(r"(?!.*\w@\w+\.)[^\n]{1,2000}")
_WORD = r"""(?!--)(?:'[^'\n]*'|"'"|[^\s'"`$;|&<>])+"""
_COMMAND = re.compile(
    r"(?:(?:hf-dtl|make) \w+"
    r"|(?:python3?|accelerate launch(?: --num_processes \d+)?) (?:-m hf_dtl[\w.]*|scripts/\w+\.py)(?: \w+)?)"
    rf"(?: --[\w-]+(?:[ =]{_WORD})?)*"
)
_OF_ANY_METHOD = {"learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps", "optim"}
_NUMBER = re.compile(r"(?!(?:19|20)\d\d\b)\W*\d[\d.]*(?:e[-+]?\d+)?\W*", re.IGNORECASE)
"""That is no year."""
LONGEST_LICENCE = 50_000
"""Letters; the GPL has 35,000."""
_AGAIN = "Audit again, or take it out and write the card anew (`hf_dtl.hub.add_evidence(folder, report)`)."


def check_claims(report: LeakageReport, labels: Collection[str]) -> None:
    """Refuse a report whose free places say what no run of this library writes there, or sound like its verdict.

    Args:
        report: from anybody.
        labels: of the model and its data, which are called as they are called.

    Raises:
        PublishError: naming the place and what stands there.
    """
    disposal, known = report.settings.get("disposal"), _options(report.method)
    for label in labels:  # a leak may be what a picture shows
        check_words(f"The label {label[:60]!r}", re.sub(r"(?i)\bleaks?\b", "", label))
    for place, text in _told(report):
        form = _form(place)
        if form is None:
            raise PublishError(f"The report has {place} = {text[:60]!r}, which no run writes. {_AGAIN}")
        inner = re.sub("forgotten_(?=train|validation|test)", "", " ".join(place.split(".", 2)[2:]))
        if inner and not (known and ".disposal." in place):  # options of a foreign method, or what was counted
            check_words(f"The report's {place}", inner)
            if promise := _PROMISE.search(inner.replace("_", " ")):
                raise PublishError(f"The report has {place}: {promise[0]!r} in it is a claim, no setting. {_AGAIN}")
        if not form.fullmatch(text) or (text.isdecimal() and len(text) > 10):
            raise PublishError(f"The report says {place} = {text[:80]!r}, in no form that a run writes. {_AGAIN}")
        if form is _COMMAND and (odd := next(_odd_options(text), None)):
            raise PublishError(f"The report's {place} has {odd[:60]!r}, which no run writes there. {_AGAIN}")
        named = form in (_LINE, _COMMAND)  # where classes are called by their names
        check_words(f"The report's {place}", re.sub(r"--suite \S+", "", _without(labels, text) if named else text))
    if extra := report.chance.keys() - {record.dataset for record in report.piggyback}:
        raise PublishError(
            f"The report says how often guessing is right on {min(extra)!r}, which nobody attacked. {_AGAIN}"
        )
    if found := next(contradictions(report), None):
        raise PublishError(f"{found} {_AGAIN}")
    own = re.sub("^[^:/]*", "", report.method) if known else report.method  # what is not a method's name
    if promise := _PROMISE.search(re.sub(r"[\W_]+|(?<=[a-z])(?=[A-Z])", " ", own)):
        raise PublishError(
            f"The report calls the method {report.method[:60]!r}, and {promise[0]!r} in it is a claim that no method "
            "of this library has for a name. Audit again under another one (--method)."
        )
    if report.bound is not None and known and "channel" not in known:
        raise PublishError(f"The report has a bound, and {report.method} has no channel that it counts. {_AGAIN}")
    if isinstance(disposal, Mapping) and known and (foreign := disposal.keys() - known):
        raise PublishError(
            f"The report says settings.disposal.{min(foreign)}, which is no option of {report.method}. {_AGAIN}"
        )


def check_words(where: str, text: str) -> None:
    """Refuse words that sound like the report's, so that nobody takes a publisher's for measured.

    Raises:
        PublishError: naming them.
    """
    forms = [re.sub(r"(?<=[^\W\d])[013457$@]+(?=[^\W\d])", _as_letters, form) for form in readings(text)]
    whole = (found for form in (*readings(text.replace("_", " ")), *forms) if (found := IMITATED.search(form)))
    apart = (found for form in forms for found in _APART.finditer(form) if not found[0].isalpha())
    if found := next(chain(whole, apart), None):
        raise PublishError(
            f"{where} has {found.group()[:40]!r}, which is a word of the report: it would be taken for measured. "
            "Say it otherwise; what was measured stands in the report."
        )


def check_licence(name: str, text: str) -> None:
    """The same of a licence's file, in which law may speak of verifying and certificates.

    Raises:
        PublishError: naming what sounds like the report.
    """
    law = r"(?i)\b(?:verify|certify|certifies|certificates?|certifi|leaks?)\b|\bhold (?=harmless)"
    check_words(name, re.sub(law, "", text))
    check_form(name, text)
    digits, letters = (len(re.findall(kind, text)) for kind in (r"\d", r"[^\W\d_]"))
    if len(text) > LONGEST_LICENCE:
        raise PublishError(
            f"{name} has {len(text):,} letters, more than any licence ({LONGEST_LICENCE:,}): they could be weights. "
            "Put the licence's text there."
        )
    runs = itertools.groupby(bool(_NUMBER.fullmatch(word)) for word in re.split(r"[\s,;|]+", text))
    if digits > max(200, letters / 2) or any(found and len([*run]) >= 20 for found, run in runs):
        raise PublishError(
            f"{name} has more numbers than any licence, {digits} digits beside {letters} letters: they could be "
            "weights. Put the licence's text there."
        )


def check_form(where: str, text: str) -> None:
    """Refuse headings and tables like those of the card, so that a publisher's are not taken for the report's.

    Raises:
        PublishError: naming them.
    """
    for kind, shown in outline(text):
        if _OF_THE_CARD[kind].fullmatch(" ".join(shown.split())):
            raise PublishError(
                f"{where} has the {kind + ' cell' * (kind == 'table')} {shown[:60]!r}, as the report's part of a card "
                "has: it would be taken for measured. Call it otherwise, or leave it to the report."
            )


def _as_letters(found: re.Match[str]) -> str:
    """Digits in a word as the letters that they look like, small or large as the one before them."""
    letters = found[0].translate(_DIGITS)
    return letters.upper() if found.string[found.start() - 1].isupper() else letters


def contradictions(report: LeakageReport) -> Iterator[str]:
    """What a report's settings say otherwise than its suite, its attacks and its spec."""
    told, spec = report.settings, report.spec
    if told.get("suite") not in (None, report.suite_name):
        yield f"The report says settings.suite = {told['suite']!r:.60}, and its suite is {report.suite_name}."
    of_kind = "tasks" if report.tasks is not None else "part" if report.unlearning is not None else "task"
    if spec.get("kind", of_kind) != of_kind:
        yield f"The report says spec.kind = {spec['kind']!r}, and has the parts of one of the kind {of_kind!r}."
    audit = told["audit"] if isinstance(told.get("audit"), Mapping) else {}
    for key, name in (("seeds", "seed"), ("budgets", "budget")):
        said, ran = audit.get(key), {getattr(record, name) for record in report.piggyback}
        if said is not None and {*re.findall(r"\d+", str(said))} != {*map(str, ran)}:
            yield f"The report says settings.audit.{key} = {said!s:.60}, and its attacks have {sorted(ran)!s:.200}."
    pairs = {name: name for name in spec if name in told and not isinstance(told[name], Mapping)}
    roles = {"source_dataset": "forget", "target_dataset": "retain", "novel_dataset": "novel"}
    if spec.get("kind") == "task":
        pairs |= roles
    places = [(f"settings.{key}", told.get(key), name) for key, name in pairs.items()]
    roles |= {name: name for name in roles.values()}
    command = [*_parts(str(told.get("command") or ""))]
    places += [(f"settings.command with --{key}", value, roles[key]) for key, value in command if key in roles]
    method = report.method.partition(":")[0]
    for _, named in (part for part in command if part[0] == "method" and method not in part[1]):
        yield f"The report says settings.command with --method = {named:.60}, and its method is {method:.60}."
    for place, value, name in places:
        one, other, data = ("".join(str(text).split()) for text in (value, spec.get(name), spec.get("retain")))
        if name in ("forget", "retain") and one.startswith(f"{data},"):  # an audit is told "DATA, REQUEST"
            one = one.removeprefix(f"{data},") if name == "forget" else data
        short, long = sorted((f"/{one}", f"/{other}"), key=len)  # of a folder, one of them may have the name alone
        if "None" not in (one, other) and not long.endswith(short):
            yield f"The report says {place} = {value!s:.60}, and spec.{name} = {spec[name]!s:.60}."


def _odd_options(text: str) -> Iterator[str]:
    """Options of a command that no run has, or whose value is in no form of its setting."""
    for name, words in _parts(text):
        form = {"method": NAME, "num_processes": _CHOICE, "setting": _CHOICE, "workers": _CHOICE}.get(name)
        if form is None and name in SETTINGS - {"command", "notes"}:
            form = _form(f"settings.{name}")
        if form is None or not form.fullmatch(words):
            yield f"--{name} {words}"


def _parts(command: str) -> Iterator[tuple[str, str]]:
    """Options of a command, and their values."""
    for option, value in re.findall(rf"--([\w-]+)(?:[ =]({_WORD}))?", command):
        yield option.replace("-", "_"), "".join(shlex.split(value))


def _without(labels: Collection[str], text: str) -> str:
    for label in sorted(filter(str.strip, labels), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(label)}(?!\w)", "label", text)
    return text


def _told(report: LeakageReport) -> Iterator[tuple[str, str]]:
    """Place and text of whatever a publisher could write freely."""
    yield from (("method", report.method), ("library_version", report.library_version))
    yield from _each("machine", report.machine)
    yield from _each("spec", report.spec)
    yield from _each("settings", {name: value for name, value in report.settings.items() if name != "suite"})
    yield from (("data", name) for name in {*report.chance, *(record.dataset for record in report.piggyback)})
    yield from (("attack", name) for name in {record.attack for record in report.piggyback})
    yield from (("membership", value) for row in report.membership for value in row.values() if isinstance(value, str))
    yield from (("task", name) for name in report.tasks or ())
    if report.bound is not None and report.bound.base is not None:
        yield "base", report.bound.base
    if report.unlearning is not None:
        yield "data", report.unlearning.request


def _each(place: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _each(f"{place}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _each(place, item)
    elif value is not None:
        yield place, str(value)


def _form(place: str) -> re.Pattern[str] | None:
    """What may stand at a place; None of one that no report has."""
    top, _, key = place.partition(".")
    if not key:
        return _TOP[top]
    name, _, inner = key.partition(".")
    unknown = inner and (
        not re.fullmatch(r"[\w.]{1,60}", inner) or name not in ("audit", "disposal", "images", "commits")
    )
    if unknown or (inner and name == "audit" and inner not in AttackConfig.__dataclass_fields__):
        return None
    if top == "machine":
        return MACHINE.get(name)
    if name not in (SPEC if top == "spec" else SETTINGS):
        return None
    if name in ("command", "notes"):
        return _COMMAND if name == "command" else _NOTE
    return _LINE if name in _DATA else _MODEL if name in _MODELS else _CHOICE


_TOP = {
    "method": NAME, "library_version": re.compile(f"{VERSION}{_BUILD}|unknown"), "data": _LINE,
    "attack": re.compile(r"\w+"), "membership": _MODEL, "task": _LINE, "base": _MODEL,
}  # fmt: skip


def _options(method: str) -> set[str]:
    """Options that a method's disposal is recorded with; none of a method of a package that is not here."""
    try:
        return {*own_fields(find_method(re.split("[:/]", method)[0]).config_class), *_OF_ANY_METHOD}
    except ConfigError:
        return set()
