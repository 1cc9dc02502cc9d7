"""What happened during disposal: the quantities that tell collision from vanishing, each on its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from hf_dtl.audit.plots.look import defaults

# name in the trainer's log, title, unit
QUANTITIES = (
    ("disposal_value", "disposal loss", "value"),
    ("mean_cosine", "cosine between chunks' gradients", "mean over pairs"),
    ("mean_gradient_norm", "chunks' gradient norm", "mean norm"),
    ("source_loss", "source cross-entropy", "nats"),
    ("retain_loss", "retention loss", "value"),
)


@defaults
def plot_disposal(logs: Sequence[Mapping[str, float]], title: str, path: str | Path) -> Path | None:
    """Draw what the trainer logged, one panel a quantity.

    A falling collision loss proves nothing: look whether the cosine went below zero, the norm vanished, or the source
    cross-entropy fell.

    Args:
        logs: entries of `trainer.state.log_history` that hold disposal values.
        title: of the picture.
        path: of the PNG.

    Returns:
        The path, None when nothing was logged.
    """
    found = [q for q in QUANTITIES if any(q[0] in entry for entry in logs)]
    if not found:
        return None
    figure = Figure(figsize=(3.1 * len(found), 2.9), layout="constrained")
    figure.suptitle(title)
    for panel, (name, heading, unit) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        points = [(entry["step"], entry[name]) for entry in logs if name in entry]
        panel.plot(*zip(*points, strict=True), color="#0072B2", marker=".", markersize=4)
        panel.set_title(heading, fontsize=10)
        panel.set_xlabel("step")
        panel.set_ylabel(unit)
        panel.grid(alpha=0.3)
        if name == "mean_cosine":
            panel.axhline(0, color="black", linewidth=0.8)
        if name == "disposal_value" and min(value for _, value in points) < -1000:
            panel.set_yscale("symlog", linthresh=1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return Path(path)
