"""The report of a detector's strengths and failures: the page, and the matching behind it."""

from dyzoo.evaluation.report.matching import Finds, ImageMatches, Matcher, Matches, Objects, Outcome, Threshold
from dyzoo.evaluation.report.page import REPORT_NAME, THRESHOLDS_NAME, write_report

__all__ = [
    "REPORT_NAME",
    "THRESHOLDS_NAME",
    "Finds",
    "ImageMatches",
    "Matcher",
    "Matches",
    "Objects",
    "Outcome",
    "Threshold",
    "write_report",
]
