"""A fair comparison of all methods on one setting: the same tuning budget, several seeds, resumable and repeatable."""

from hf_dtl.study.options import StudyOptions
from hf_dtl.study.report import main_cells
from hf_dtl.study.run import reproduce
from hf_dtl.study.settings import SETTINGS
from hf_dtl.study.tuning import choose_strength

__all__ = ["SETTINGS", "StudyOptions", "choose_strength", "main_cells", "reproduce"]
