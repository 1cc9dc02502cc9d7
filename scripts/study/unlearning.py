"""The comparison of unlearning methods: how near each comes to the model that never saw a part of the data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hf_dtl.data import ForgetRequest
from hf_dtl.errors import ConfigError, DivergedError
from hf_dtl.functional import average_gap
from hf_dtl.methods.by_name import parse_method
from hf_dtl.methods.registry import method_names
from hf_dtl.options import option
from hf_dtl.pipeline.part_job import PartJob
from hf_dtl.scenarios.part import MEASURED_ON
from study.engine import Log, RunOptions, Study, Trial, attack_references, read_names, training_record
from study.plots import plot_gap
from study.settings import options_of
from study.settings.unlearning import KNOBS, METHODS, RATES, REQUESTS, SETTINGS
from study.tables.unlearning import GOAL_COST, GOAL_GAP, Comparison, markdown, method_row, outcome, reference_row
from study.tuning import Method, least

TUNED_ON = ("forget", "retain", "validation")


@dataclass
class ComparisonOptions(RunOptions):
    """Options of the comparison."""

    setting: str = option("fashion_vit", f"Data and model: {', '.join(SETTINGS)}.")
    requests: str = option(";".join(REQUESTS), "What to forget, separated by semicolons, as in scripts/unlearn.py.")
    methods: str = option(",".join(METHODS), "Methods, each NAME[:OPTION=VALUE]..., separated by commas.")
    attacks: str = option("linear_probe,full,full_published", "Attacks as in scripts/unlearn.py.")
    data_dir: str | None = option(None, "CIFAR-10 for the settings on it: a folder of parquet files, or a Hub id.")


def _train(trial: Trial, job: PartJob) -> dict[str, Any]:
    undisposed = job.prepare()
    job.collect_layer_inputs(undisposed)  # here, because trials of one job run side by side
    models, tuning = {"undisposed": undisposed, "retrained": job.references()["retrained"]}, "tuning" in trial.kind
    measurements = job.measure(models, TUNED_ON if tuning else MEASURED_ON, membership=not tuning)
    costs = {stage: job.cost(stage) for stage in ("train", "retrained")}
    return training_record(job, "train", undisposed.num_parameters()) | asdict(measurements) | {"cost": costs}


def _tune(trial: Trial, job: PartJob) -> dict[str, Any]:
    model, _ = trial.scrub(job, parse_method(trial.method))
    return asdict(job.measure({"scrubbed": model}, TUNED_ON, membership=False))


def _unlearn(trial: Trial, job: PartJob) -> dict[str, Any]:
    model, cost = trial.scrub(job, parse_method(trial.method))
    attacks = trial.attack(job, {"scrubbed": model})
    return asdict(job.measure({"scrubbed": model})) | {"attacks": attacks, "cost": cost}


class UnlearnTrial(Trial):
    """tuning seed, seed: train and retrain, and measure both models. references: the attacks on them. tuning: one
    strength of a method on the tuning seed. method: one method on a reported seed, measured and attacked."""

    works: ClassVar = {
        "tuning seed": _train, "seed": _train, "references": attack_references, "tuning": _tune, "method": _unlearn
    }  # fmt: skip
    attacking: ClassVar = frozenset({"references", "method"})


@dataclass(frozen=True)
class UnlearningStudy(Study):
    """The comparison; its places are the requests."""

    script: ClassVar = "compare_unlearning"
    outputs: ClassVar = "compare"
    picture: ClassVar = "gap"
    markdown: ClassVar = staticmethod(markdown)
    plot: ClassVar = staticmethod(plot_gap)
    settings: ClassVar = SETTINGS
    trial: ClassVar = UnlearnTrial
    parts: ClassVar = (
        "train the models, and train them again without what is to be forgotten",
        "the strengths of the methods, and the attacks on the references",
        "the methods, on every seed",
    )

    def of_place(self, place: str) -> dict[str, Any]:
        return {"forget": place}

    def gaps(self, method: Method, request: str) -> dict[float, float | None]:
        """Average gap to the retrained model at every strength, on forget, retain and validation images.

        None where the training diverged.
        """
        accuracy = self.before_tuning(request).result()["accuracy"]
        goal = {split: accuracy[split]["retrained"] for split in TUNED_ON}
        gaps: dict[float, float | None] = {}
        for strength, trial in self.tuning(method, request).items():
            own = trial.result().get("accuracy")
            gaps[strength] = average_gap({split: own[split]["scrubbed"] for split in TUNED_ON}, goal) if own else None
        return gaps

    def strength(self, method: Method, place: str) -> float | None:
        return least(self.gaps(method, place))

    def summary(self) -> list[Comparison]:
        trials = self.method_trials()
        return [self._comparison(request, trials) for request in self.places]

    def _comparison(self, request: str, trials: Mapping[tuple[str, Method], list[Trial]]) -> Comparison:
        trained, attacked = ([c.result() for c in self.on_seeds(kind, request)] for kind in ("seed", "references"))
        rows, complete = [], []
        for (place, method), own in trials.items():
            if place == request:
                results = [trial.result() for trial in own]
                outcomes = [outcome(request, *three) for three in zip(results, trained, attacked, strict=True)]
                if not complete and None not in outcomes:
                    complete = outcomes
                rows.append(method_row(own[0].method, outcomes, self.gaps(method, request)))
        if not complete:
            raise DivergedError(f"No method finished on {request} on every seed, so there is nothing to compare.")
        stages = {"undisposed": "train", "retrained": "retrained"}
        return Comparison(
            request=request,
            images={name: trained[0]["images"][name] for name in ("forget", "retain")},
            seeds=self.seeds,
            references=tuple(
                reference_row(role, complete, [one["cost"][stage] for one in trained])
                for role, stage in stages.items()
            ),
            rows=tuple(rows),
            failed=self.failures(request, trials),
        )

    def values(self, comparisons: list[Comparison]) -> dict[str, Any]:
        return {
            "goal": {"average_gap": GOAL_GAP, "cost": GOAL_COST},
            "comparisons": [{**asdict(one), "goal": {row.name: row.goal for row in one.rows}} for one in comparisons],
        }


def compare(options: ComparisonOptions, log: Log = print) -> list[Comparison]:
    """Do what is left of the comparison, see `Study.run`."""
    return unlearning_study(options).run(log)


def unlearning_study(options: ComparisonOptions) -> UnlearningStudy:
    """Check the options before anything is written.

    Raises:
        ConfigError, DataError: an option is unknown, missing or out of its range.
    """
    o = options
    shared = options_of(SETTINGS, o.setting, data_dir=o.data_dir) | {"attacks": o.attacks, "use_cpu": o.use_cpu}
    requests = tuple(part.strip() for part in o.requests.split(";") if part.strip())
    if not requests:
        raise ConfigError("--requests names nothing to forget.")
    for request in requests:
        ForgetRequest.parse(request)
    texts = read_names(o.methods, "methods", f"name different methods: {', '.join(method_names())}")
    return UnlearningStudy(o, shared, tuple(_method(text) for text in texts), requests)


def _method(text: str) -> Method:
    """The method with its strengths; a strength among its own options is not tuned."""
    choice = parse_method(text)
    knob = KNOBS.get(choice.name, RATES)
    return Method.of(text, knob, choice.options.get(knob.option))
