"""Pictures where they are not the point: drawing a report takes a second."""

from dataclasses import replace
from pathlib import Path

from hf_dtl.audit import LeakageReport

_drawn = {}


def draw_once(patch=setattr, alike=False):
    """Let reports that look alike, or all of a kind, be drawn once a process, and copied from then on."""
    plot = LeakageReport.plot

    def copied(report, folder):
        if alike:
            look = report.tasks is None, bool(report.axes), any(axis.by_effort for axis in report.axes.values())
        else:
            look = repr(replace(report, settings={}, machine={}, spec={}, weights={}))
        if look not in _drawn:
            _drawn[look] = {path.name: path.read_bytes() for path in plot(report, folder)}
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in _drawn[look].items():
            (Path(folder) / name).write_bytes(content)
        return [Path(folder) / name for name in _drawn[look]]

    patch(LeakageReport, "plot", copied)
