"""The example that comes with the package: published models of one run, small enough to be audited in a minute."""

from pathlib import Path

from hf_dtl.audit import LeakageReport, plot_comparison
from hf_dtl.data.sources import EXAMPLE_FOLDER as EXAMPLE
from hf_dtl.pipeline.audit import run
from hf_dtl.pipeline.audit_options import AuditOptions
from hf_dtl.pipeline.job import STORE

PUBLISHED = {
    "gradient_collision": EXAMPLE / "methods" / "gradient_collision" / "scrubbed",
    "representation_erasure": EXAMPLE / "scrubbed",
}


def audit_example(output_dir: str | Path, suite: str = "quick-1") -> list[LeakageReport]:
    """Audit two scrubbed models that were to forget the families of fonts, and to keep telling four letters.

    A first look gets something back from one of them. With quick-1, attacks and draws are those of their own reports.

    Args:
        output_dir: a folder for each model, and pictures of both; an interrupted audit is continued there.
        suite: the attacker.

    Returns:
        One report a model.

    Raises:
        OutputError: the folder holds something else.
    """
    folder = Path(output_dir)
    reports = [
        run(
            AuditOptions(
                scrubbed=str(published),
                undisposed=str(EXAMPLE / "undisposed"),
                retrained=str(EXAMPLE / "retrained"),
                forget="glyphs[sans,mono,serif,stix]",
                retain="glyphs[N,Q,R,T]",
                suite=suite,
                max_train_images_per_class=2000,  # all of them
                method=method,
                membership=False,
                output_dir=str(folder / method),
                resume=True,
            ),  # fmt: skip
            folder / STORE,  # shared, so that the references are attacked once
        )
        for method, published in PUBLISHED.items()
    ]
    plot_comparison(reports, folder / "comparison")
    return reports
