"""Reasons why something in a picture may not have been found, each said in one line."""

from __future__ import annotations

from dyzoo.config import PreprocessConfig
from dyzoo.errors import DyzooWarning
from dyzoo.model.sizes import zoom

SMALL_PX = 32
"""Side in the network's input below which an object is small, by COCO's measure."""


class MissedWarning(DyzooWarning):
    """Something in a picture may not have been found; `Detections.notes` says so of each picture."""


def note_on_limit(max_detections: int, full: int, tiles: int, is_picture_full: bool) -> str | None:
    """A line where as many objects were found as are kept; None where there were fewer.

    Args:
        max_detections: how many are kept.
        full: looks at the picture in which so many were found.
        tiles: looks at it as tiles; 0 without.
        is_picture_full: whether there were more in the picture, with all tiles.
    """
    if not full and not is_picture_full:
        return None
    where = f"in {full} of {tiles} tiles " if tiles and not is_picture_full else ""
    ways_out = "raise max_detections=" + ("" if tiles else ", or set tiles='auto'")
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
