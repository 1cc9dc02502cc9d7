"""Suites: attackers that are fixed by name, so that nobody can choose a weak one and call it the standard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from hf_dtl.audit.attacks.registry import find_attack
from hf_dtl.audit.config import AttackConfig
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.options import nearest

if TYPE_CHECKING:  # it loads torch, and the command line must not
    from hf_dtl.audit.store import PiggybackRecord

CUSTOM = "custom"
MUST = ("no_model", "scratch")
"""Floors that every suite attacks; `retrained` or `base` must be given for a word."""
IMAGES = 500
"""Validation and test images that a suite wants; of fewer a flag tells."""
_FEW = 4
"""Learning rates that an attack without a choice may have used, for networks of different kinds."""
SMALL, LARGE = 0, 10_000_000
"""Parameters of a network of either kind: a suite has other learning rates for each."""


@dataclass(frozen=True)
class Suite:
    """An attacker, fixed by name; a change of anything makes another one.

    Args:
        name: with a number that grows.
        about: what it is for, in one sentence.
        attacks, budgets, seeds: see `AttackConfig`; attacks that do not apply to a model are left out.
        hashes: of the settings, for small networks and for large ones.
        claims: whether it is strong enough that a report may say "forgotten".
        options: of `AttackConfig`.
    """

    name: str
    about: str
    attacks: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    hashes: tuple[str, str]
    claims: bool
    options: dict[str, Any] = field(default_factory=dict)

    def config(self, parameters: int, **cost: Any) -> AttackConfig:
        """The attacker for a network of so many parameters; `cost` changes no number: workers, max_stack."""
        rates = {} if parameters > 2_000_000 else {"full_learning_rates": (1e-4, 3e-4, 1e-3, 3e-3)}
        chosen = {"attacks": self.attacks, "budgets": self.budgets, "seeds": self.seeds}
        return AttackConfig.for_model(parameters, **{**chosen, **rates, **self.options, **cost})


_FORMS = ("affine", "crop_flip", "photometric")
_STANDARD = (
    "ridge", "class_means", *(f"{start}_{form}" for start in ("ridge", "network") for form in _FORMS),
    "network_framed", "prototype_400", *(f"prototype_{form}" for form in _FORMS), "committee",
)  # fmt: skip
_STARTS = (
    "full", "head_first", "published", "reinitialised_last", "reinitialised_half", "relative", "lora", "retain_first",
    "rounded_8", "rounded_4", "interpolated", "extrapolated",
)  # fmt: skip
_FULL = (
    *_STANDARD, "full_400", "head_first_400", "head_first_photometric", "class_means_affine", "class_means_crop_flip",
    "label_spreading", *(f"{start}_{form}" for start in _STARTS for form in _FORMS[:2]), "retain_only",
)  # fmt: skip
SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="quick-1",
            about="A first look, in minutes on two cores; it never says forgotten.",
            attacks=(
                "ridge",
                "class_means",
                *(f"ridge_{form}_8" for form in _FORMS),
                "network_framed_200",
                "committee",
            ),
            budgets=(5, 20),
            seeds=(0, 1, 2),
            hashes=("18659ad1254fd140e1bc21c839843b43", "db7ceed22cfed1fd20b5ee8437d2d1da"),
            claims=False,
            options={"finalists": 3},
        ),
        Suite(
            name="standard-1",
            about="What a claim must use.",
            attacks=_STANDARD,
            budgets=(5, 20),
            seeds=(0, 1, 2, 3, 4),
            hashes=("80e09a7c6828bfd8f54b5e24b7d9f9a6", "d05d6e27840806b87317369b2d22508b"),
            claims=True,
            options={"finalists": 3, "successive_halving": True},
        ),
        Suite(
            name="full-1",
            about="Every attack at every budget, in hours.",
            attacks=_FULL,
            budgets=(1, 5, 20, 100),
            seeds=(0, 1, 2, 3, 4),
            hashes=("f4faed0bac32a9c2a0c6805e34c9878a", "df81947d9555c53e10c19336ab34288e"),
            claims=True,
            options={"finalists": 4, "successive_halving": True},
        ),
    )
}


def suite_names() -> tuple[str, ...]:
    """The suites that there are, the shortest first, and `custom`."""
    return (*SUITES, CUSTOM)


def find_suite(name: str) -> Suite:
    """The suite of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SUITES:
        near = nearest(name, suite_names())
        raise ConfigError(f"There is no suite {name!r}.{near} There are: {', '.join(suite_names())}.")
    return SUITES[name]


def check_complete(claimed: Mapping[str, str], records: Sequence[PiggybackRecord]) -> None:
    """Refuse a claim to a suite that is not one: another hash, missing attacks, or others' learning rates.

    Args:
        claimed: `name` and `hash`, as a report holds them.
        records: its attacks.

    Raises:
        DataError: the suite is unknown here, or the report is not what it makes.
    """
    name, suite = claimed["name"], SUITES.get(claimed["name"])
    if suite is None or claimed["hash"] not in suite.hashes:
        known = f"it has {', '.join(suite.hashes)}" if suite else f"there are {', '.join(suite_names())}"
        raise DataError(
            f"The report says that the suite {name} with the hash {claimed['hash']} attacked; in this library {known}."
        )
    _check_choices(suite, records)
    done = {(r.axis, r.dataset, r.model, r.attack, r.budget, r.seed) for r in records}
    trial = suite.seeds[: suite.config(SMALL).trial_seeds]
    for axis, dataset in dict.fromkeys((r.axis, r.dataset) for r in records):
        models = {r.model for r in records if (r.axis, r.dataset) == (axis, dataset)}
        for model in sorted(models | {"undisposed", "scrubbed", *MUST}):
            wanted = [a for a in suite.attacks if not find_attack(a).needs and not _above_pixels(a, model)]
            runs = [(axis, dataset, model, *run) for run in product(wanted, suite.budgets, trial)]
            missing = [run for run in runs if run not in done]
            finished = {run[3:] for run in done if run[:3] == (axis, dataset, model)}
            for budget in suite.budgets:
                if not any(all((a, budget, seed) in finished for seed in suite.seeds) for a in suite.attacks):
                    missing.append((axis, dataset, model, "an attack", budget, suite.seeds[-1]))
            if missing:
                _, _, _, attack, budget, seed = missing[0]
                raise DataError(
                    f"The report says that the suite {name} attacked, and lacks {len(missing)} of its attacks on the "
                    f"{model} model: {attack} with {budget} images a class, seed {seed}. It is {CUSTOM}."
                )


def _check_choices(suite: Suite, records: Sequence[PiggybackRecord]) -> None:
    """Refuse learning rates and checkpoints that an attack of the suite has not to choose from."""
    for attack in dict.fromkeys(r.attack for r in records if r.attack in suite.attacks):
        own, runs = find_attack(attack), [r for r in records if r.attack == attack]
        known = {rate for size in (SMALL, LARGE) for rate in own.learning_rates(suite.config(size))}
        rates = {r.learning_rate for r in runs}
        strange = rates - known if any(known) else len(rates) > _FEW  # in closed form, or with a rate of its own
        stops = {steps for r in runs for steps, *_ in r.curve[:-1]} | {0 for r in runs if r.curve}
        if strange or stops - {0, *getattr(own, "checkpoints", ())} or (stops and not hasattr(own, "checkpoints")):
            raise DataError(
                f"The report says that the suite {suite.name} attacked, and its {attack} has learning rates (such as "
                f"{min(rates)}) or checkpoints ({sorted(stops)}) that the attack does not choose from. It is {CUSTOM}."
            )


def _above_pixels(attack: str, model: str) -> bool:
    """Whether the attack trains a network, which the floor `no_model` has none of."""
    return model == "no_model" and find_attack(attack).whole_network


def name_of(found: str) -> str:
    """The suite of this hash, `custom` where it is none."""
    return next((suite.name for suite in SUITES.values() if found in suite.hashes), CUSTOM)
