"""A fair comparison of all methods on one setting: the same tuning budget, several seeds, resumable and repeatable."""

from study.options import StudyOptions
from study.report import main_cells
from study.run import reproduce
from study.settings import SETTINGS
from study.tuning import choose_strength

__all__ = ["SETTINGS", "StudyOptions", "choose_strength", "main_cells", "reproduce"]
