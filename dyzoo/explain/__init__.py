"""Why a detector found what it found: its attentions step by step, and the gradient of one score through them."""

from __future__ import annotations

from dyzoo.explain.explaining import MOST_PIXELS, explain
from dyzoo.explain.explanation import Explanation
from dyzoo.explain.parts import PANELS, BranchExplained, LevelExplained

__all__ = ["MOST_PIXELS", "PANELS", "BranchExplained", "Explanation", "LevelExplained", "explain"]
