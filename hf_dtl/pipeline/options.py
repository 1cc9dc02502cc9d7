"""What a user may say of forgetting, auditing and verifying: the options of the command line and of Python alike."""

import os
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from hf_dtl.audit.attacks.registry import parse_attacks
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.suites import CUSTOM, find_suite
from hf_dtl.errors import ConfigError
from hf_dtl.options import check_types, nearest, numbers, option

WHAT, MODEL, METHOD = "what to forget", "model", "method"
AUDIT, RUN = "audit", "run"
RATES = ("linear_probe_learning_rates", "full_learning_rates", "lora_learning_rates")
_EPOCHS = ("train_epochs", "adapt_epochs", "retrain_epochs")
ATTACKER = ("attacks", "budgets", "seeds", *RATES, "successive_halving")
"""What a suite fixes."""
ANY_SUITE: dict[str, Any] = dict.fromkeys(ATTACKER) | {"successive_halving": False}
"""Nothing of that given."""
FEW_PARAMETERS = 2_000_000
"""Networks up to this size gain nothing from several threads, and take the learning rates of small ones."""


@dataclass(kw_only=True)
class Options:
    """What every command that loads images and attacks models has."""

    forget: str = option(
        "glyphs[sans,mono,serif,stix]",
        "What to forget: data, NAME[:SPLIT][CLASS,CLASS,...], for a whole task; or a part of --retain: class=3 (also "
        "class=cat,dog or class=0-2), a file of row numbers of the training split (or of row,class: what to name each "
        "image instead), column=value (such as person=ann), or random=10% of the training images.",
        group=WHAT,
        aliases=("source_dataset",),
    )
    retain: str | None = option(
        None,
        "Data to keep, or that --forget is a part of: a Hub id, a folder, or embedded data.",
        group=WHAT,
        aliases=("target_dataset", "dataset"),
    )
    novel: str | None = option(
        None,
        "Task that nobody trained, for the second axis of the audit of a whole task; none for no such task.",
        group=WHAT,
        aliases=("novel_dataset",),
    )
    forget_label_column: str | None = option(
        None,
        "Column of the classes to forget; default: label, of glyphs letter.",
        group=WHAT,
        aliases=("source_label_column",),
    )
    retain_label_column: str | None = option(
        None,
        "Column of the classes of --retain; default: as there.",
        group=WHAT,
        aliases=("target_label_column", "label_column"),
    )
    novel_label_column: str | None = option(None, "Column of novel classes; default: as there.", group=WHAT)
    image_column: str | None = option(None, "Column of images; default: the only one.", group=WHAT)
    background: str = option("white", "Colour under what is transparent in images: a name or #RRGGBB.", group=WHAT)
    max_eval_images: int | None = option(
        None, "Cap on the images of each validation and test split; default: all.", group=WHAT
    )
    head_by_position: bool = option(
        False,
        "Take the rows of a head without names (LABEL_0, ...) to have the order of the data's classes.",
        group=MODEL,
    )
    image_size: int | None = option(
        None, "Resize images to this many pixels instead of what the model's processor asks for.", group=MODEL
    )
    suite: str | None = option(
        None,
        "Suite of attacks: quick-1 (a first look), standard-1 (what a claim takes), full-1 (every attack, hours), or "
        "custom, made up by the following options; default: quick-1, or custom where one of those is given, and of "
        "several tasks.",
        group=AUDIT,
    )
    attacks: str | None = option(
        None,
        "Attacks of one's own choice, separated by commas: names, grid, adaptive or all; those that do not apply are "
        "left out.",
        group=AUDIT,
    )
    budgets: str | None = option(
        None,
        "Images a class that the attacker gets, separated by commas; default: 5,20, for several tasks 5.",
        group=AUDIT,
    )
    seeds: str | None = option(
        None, "Seeds of the attacks, separated by commas; default: 0,1,2.", group=AUDIT, aliases=("audit_seeds",)
    )
    linear_probe_learning_rates: str | None = option(
        None, "Learning rates that linear probes choose from; default: what suits the size of the model.", group=AUDIT
    )
    full_learning_rates: str | None = option(
        None, "The same for attacks on every weight.", group=AUDIT, aliases=("attack_learning_rates",)
    )
    lora_learning_rates: str | None = option(None, "The same for LoRA.", group=AUDIT)
    successive_halving: bool = option(
        False, "Give up learning rates early: faster, but the attacker is weaker.", group=AUDIT
    )
    max_stack: int | None = option(
        None, "Attacks that run at once; default: what memory allows; 1: one by one.", group=AUDIT
    )
    membership: bool = option(
        True, "Also ask whether forgotten images can be told from images never seen.", group=AUDIT
    )
    seed: int = option(0, "Seed of training and of every draw of images.", group=RUN)
    use_cpu: bool = option(False, "Compute on the CPU even if there is a GPU.", group=RUN)

    FREE: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "use_cpu", *ATTACKER, "max_stack", "membership", "suite"}
    )
    """What a run may be continued with otherwise: it decides which attacks are run, and none of the stages."""

    def __post_init__(self) -> None:
        check_types(self)
        limits = ("forget_images_per_class", "retain_images_per_class", "images")
        for name in ("max_eval_images", "image_size", "max_stack", *limits):
            limit: int | None = getattr(self, name, None)
            if limit is not None and limit < 1:
                raise ConfigError(f"--{name} {limit} must be at least 1.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed {self.seed} must be a whole number in 0..4294967295.")
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, str) and value.startswith("~/"):  # as in --name=~/x, which a shell leaves as it is
                setattr(self, f.name, str(Path(value).expanduser()))
            if f.name in ("steps", *_EPOCHS) and value is not None and value < 0:
                raise ConfigError(f"--{f.name} {value} must not be negative. Leave it out for the default.")
            if f.name.endswith("learning_rate") and value is not None and not 0 < value < 1e3:
                raise ConfigError(f"--{f.name} {value} must be above 0 and below 1000.")
        if self.attacks is not None:
            parse_attacks(self.attacks)

    def choose_attacker(self, suite: str, **custom: str) -> None:
        """Fill in what was not given: the suite, or what `custom` attacks with.

        Raises:
            ConfigError: the suite is unknown, or something else is given that it fixes.
        """
        own = [name for name in ATTACKER if getattr(self, name)]
        if self.suite is None:
            self.suite = CUSTOM if own else suite
        if self.suite != CUSTOM:
            find_suite(self.suite)
            if own:
                raise ConfigError(
                    f"--suite {self.suite} fixes the attacker: leave out --{', --'.join(own)}, or give --suite custom."
                )
            return
        for name, value in {"seeds": "0,1,2", **custom}.items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def attacker(self, parameters: int = 0, **cost: Any) -> AttackConfig:
        """What the attacker may do to a network of so many parameters; `cost`: workers."""
        if self.suite != CUSTOM:
            return find_suite(str(self.suite)).config(parameters, max_stack=self.max_stack, **cost)
        chosen: dict[str, Any] = {name: getattr(self, name) for name in ("successive_halving", "max_stack")}
        rates = {name: getattr(self, name) for name in RATES}
        chosen |= {name: numbers(text, name, float) for name, text in rates.items() if text is not None}
        chosen |= {name: numbers(getattr(self, name), name, int) for name in ("budgets", "seeds")}
        return AttackConfig.for_model(parameters, attacks=parse_attacks(str(self.attacks)), **chosen, **cost)

    def settings(self) -> dict[str, Any]:
        """What decides the stages of a run: a folder holds one choice of these."""
        return {name: value for name, value in asdict(self).items() if name not in self.FREE}


def as_given(arguments: dict[str, Any], options: type) -> dict[str, Any]:
    """Arguments of a call as an options class takes them: a list becomes the text with commas of a command line.

    Raises:
        ConfigError: an argument is no option, with the nearest right one; or one that must be given is missing.
    """
    names = [f.name for f in fields(options)]
    for name in arguments:
        if name not in names:
            raise ConfigError(f"There is no option {name!r}.{nearest(name, names)} There are: {', '.join(names)}.")
    needed = [f.name for f in fields(options) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if arguments.get(name) is None]:
        raise ConfigError(f"These options are missing: {', '.join(missing)}.")
    arguments = {name: v.tolist() if hasattr(v, "tolist") else v for name, v in arguments.items()}
    if isinstance(given := arguments.get("forget"), (list, tuple)):
        heads = {str(one).partition("=")[0] for one in given}
        if not all(isinstance(one, str) for one in given):
            raise ConfigError(f"forget={given!r}: rows are listed in a text file, one a line: forget='rows.txt'.")
        if len(given) > 1 and len(heads) == 1 and all("=" in one for one in given):  # one column, several values
            values = [one.partition("=")[2] for one in given]
            arguments = arguments | {"forget": f"{heads.pop()}={','.join(values)}"}
    for name, value in arguments.items():
        if not isinstance(value, (str, int, float, Sequence, os.PathLike, type(None))):
            raise ConfigError(
                f"{name}={type(value).__name__} cannot be used: give a name or a folder, as text. Save a data set by "
                "`to_parquet` or `save_to_disk`, a model by `save_pretrained`."
            )
    plain = {name: str(v) if isinstance(v, os.PathLike) else v for name, v in arguments.items()}
    return {
        name: ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in plain.items()
    }


def public_name(model: str) -> str:
    """A Hub id as it is, a local folder without the folders above it."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() or path.is_absolute() else model
