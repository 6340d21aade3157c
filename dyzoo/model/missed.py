"""Reasons why something in a picture may not have been found, each said in one line."""

from __future__ import annotations

from dyzoo.config import PreprocessConfig
from dyzoo.errors import DyzooWarning
from dyzoo.model.sizes import zoom

SMALL_PX = 32
"""Side in the network's input below which an object is small, by COCO's measure."""


class MissedWarning(DyzooWarning):
    """Something in a picture may not have been found; `Detections.notes` says so of each picture."""


def note_on_limit(full: int, looks: int, max_detections: int) -> str | None:
    """A line where in so many of the looks as many objects were found as may come out of one; None: in none."""
    if not full:
        return None
    where = f"in {full} of {looks} tiles " if looks > 1 else ""
    ways_out = "raise max_detections=" + ("" if looks > 1 else ", or set tiles='auto'")
    return f"{where}{max_detections} objects are kept, the most that are, there may be more: {ways_out}"


def note_on_shrinking(config: PreprocessConfig, image_size: tuple[int, int], seen: float) -> str | None:
    """A line where objects as large as those of the training would be small, and at most half as large as there.

    Args:
        config: with the training scale; where there is none, nothing is said.
        image_size: (H, W) of the picture.
        seen: pixels of the network's input for one of the picture.
    """
    trained = config.training_scale
    if trained is None:
        return None
    learnt = zoom(config, trained.image_size, None)
    if seen * 2 > learnt or trained.object_px * seen >= SMALL_PX:
        return None
    height, width = image_size
    return (
        f"the picture of {width} x {height} is seen at {seen:.2g} of its size: objects of {trained.object_px:.0f} px, "
        f"typical of the training, have {trained.object_px * seen:.0f} px there (in training "
        f"{trained.object_px * learnt:.0f}) and may be missed: tiles='auto', or a larger size="
    )
