"""COCO's detection metrics of a model on a dataset, what running it costs, and how two models compare."""

from __future__ import annotations

from dyzoo.evaluation.compared import Comparison, Difference, ImageChange
from dyzoo.evaluation.comparison import DRAWS, compare
from dyzoo.evaluation.cost import Cost
from dyzoo.evaluation.result import PR_IOUS, RECALLS, Evaluation
from dyzoo.evaluation.running import Predictor, evaluate, evaluate_together
from dyzoo.evaluation.scorers import SCORERS, ScorerName

__all__ = [
    "DRAWS",
    "PR_IOUS",
    "RECALLS",
    "SCORERS",
    "Comparison",
    "Cost",
    "Difference",
    "Evaluation",
    "ImageChange",
    "Predictor",
    "ScorerName",
    "compare",
    "evaluate",
    "evaluate_together",
]
