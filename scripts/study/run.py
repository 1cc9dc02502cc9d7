"""The whole study: cells in three parts, then the table, the results and the picture."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from hf_dtl.errors import DivergedError
from hf_dtl.pipeline.stages import write_atomically
from study.cells import Cell
from study.options import Method, Plan, StudyOptions, plan
from study.plots import plot_tradeoff
from study.report import markdown, results
from study.summary import Row, Summary, method_row, reference_rows
from study.tuning import Chosen, choose_strength
from study.workers import run_cells


@dataclass(frozen=True)
class Study:
    """The cells of a checked study; those of a later part need those of an earlier one."""

    plan: Plan

    @property
    def tuning_seed(self) -> Cell:
        return Cell("tuning seed", self.plan.job(self.plan.tuning_seed))

    @property
    def seeds(self) -> list[Cell]:
        return [Cell("seed", self.plan.job(seed)) for seed in self.plan.seeds]

    @property
    def references(self) -> list[Cell]:
        return [Cell("references", self.plan.job(seed)) for seed in self.plan.seeds]

    def tuning(self, method: Method) -> dict[float, Cell]:
        """The cells that a method's strength is chosen from, by strength; none where there is no choice."""
        options = self.plan.job(self.plan.tuning_seed)
        strengths = method.strengths if len(method.strengths) > 1 else ()
        return {strength: Cell("tuning", options, method.at(strength)) for strength in strengths}

    def choose(self, method: Method) -> Chosen:
        """The strength of a method, once its tuning cells are finished.

        Raises:
            DivergedError: the training diverged at every strength.
        """
        cells = self.tuning(method)
        if not cells:
            return Chosen(method.strengths[0], None, None, {})
        before = self.tuning_seed.result()["seed"]["validation"]["undisposed"]
        tried = {strength: cell.result()["disposal"].get("validation") for strength, cell in cells.items()}
        return choose_strength(tried, before, self.plan.margin)

    def method(self, method: Method, strength: float) -> list[Cell]:
        """The reported cells of a method, one a training seed."""
        return [Cell("method", self.plan.job(seed), method.at(strength)) for seed in self.plan.seeds]


def reproduce(options: StudyOptions, told: Callable[[str], None] = print) -> Summary:
    """Do what is left of a study and write `table.md`, `results.json`, `tradeoff.png` and `tradeoff.svg`.

    Args:
        options: see `StudyOptions`.
        told: called with every line of progress.

    Raises:
        DTLError: an option, the output folder, the data or the model cannot be used; finished cells stay.
    """
    checked = plan(options)
    checked.start()
    study = Study(checked)
    if checked.unknown:
        told(f"Not in this version of the library, left out: {', '.join(checked.unknown)}.")
    tuning = [cell for method in checked.methods for cell in study.tuning(method).values()]
    told("Part 1 of 3: the models before disposal.")
    run_cells([*([study.tuning_seed] if tuning else []), *study.seeds], checked.workers, told)
    told("Part 2 of 3: the strengths of the methods, and the attacks on the references.")
    run_cells([*tuning, *study.references], checked.workers, told)
    chosen, failed = dict[Method, Chosen](), dict[str, str]()
    for method in checked.methods:
        try:
            chosen[method] = study.choose(method)
        except DivergedError as error:
            failed[method.text] = str(error)
    told("Part 3 of 3: the methods, trained and attacked on every seed.")
    cells = {method: study.method(method, found.strength) for method, found in chosen.items()}
    by_seed = [cell for of_seed in zip(*cells.values(), strict=True) for cell in of_seed]
    run_cells(by_seed, checked.workers, told)
    rows = [_row(study, method, found, cells[method]) for method, found in chosen.items()]
    summary = _write(study, options, tuple(rows), failed)
    told(f"Table, results and picture: {checked.output}")
    return summary


def _row(study: Study, method: Method, chosen: Chosen, cells: list[Cell]) -> Row:
    return method_row(method, chosen, cells, study.seeds, study.references)


def _write(study: Study, options: StudyOptions, rows: tuple[Row, ...], failed: dict[str, str]) -> Summary:
    output, trained = study.plan.output, study.seeds[0].result()["seed"]
    references = reference_rows(study.seeds, study.references)
    summary = Summary(study.plan.seeds, references, rows, failed, trained["clock"])
    found = results(study.plan, options, summary, trained)
    plot_tradeoff(summary, output / "tradeoff", study.plan.setting.title)
    write_atomically(output / "table.md", markdown(found, summary))
    write_atomically(output / "results.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return summary
