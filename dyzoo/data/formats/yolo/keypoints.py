"""Telling keypoints behind a box from outlines, which YOLO's label files write alike where no `kpt_shape` says so."""

from __future__ import annotations

from collections.abc import Sequence

_SLACK = 0.01  # a point may lie this far over the edge of its box, as tools round


class KeypointGuess:
    """Whether the long lines of a split are `x y width height` with keypoints, or outlines `x y x y x y ...`.

    Keypoints are as many in every line. Those of three values end in a visibility of 0, 1 or 2; those of two all lie in
    their box and around its centre, as an outline's points hardly lie around its first one. One line that can only be
    an outline decides for outlines.
    """

    def __init__(self) -> None:
        self._length = 0
        self._lines = 0
        self._support = {3: 0, 2: 0}  # values of a point, if that is still possible -> lines that speak for it
        self._only_keypoints = False

    def fits(self, values: Sequence[float], is_outline: bool) -> bool:
        """Whether a line may be a box with keypoints, beside those before it; if so, it counts.

        Args:
            values: all that follows the class number, more than four.
            is_outline: whether the line may be an outline.
        """
        if self._length not in (0, len(values)):
            return False
        support = {step: self._supports(values, step) for step in self._support}
        if all(each is None for each in support.values()):
            return False
        self._support = {step: self._support[step] + each for step, each in support.items() if each is not None}
        self._length = len(values)
        self._lines += 1
        self._only_keypoints |= not is_outline
        return True

    def is_certain(self) -> bool:
        """Whether the lines that fitted, taken together, are keypoints rather than outlines."""
        if self._only_keypoints:
            return True
        return any(2 * number > self._lines for number in self._support.values())

    @staticmethod
    def _supports(values: Sequence[float], step: int) -> bool | None:
        """Whether a line speaks for keypoints of `step` values; None if it cannot be one."""
        x, y, width, height = values[:4]
        xs, ys, visibilities = values[4::step], values[5::step], values[6::3] if step == 3 else ()
        if (len(values) - 4) % step or not all(-_SLACK <= each <= 1 + _SLACK for each in (*values[:4], *xs, *ys)):
            return None
        if width <= 0 or height <= 0 or not all(each in (0, 1, 2) for each in visibilities):
            return None
        points = zip(xs, ys, strict=True)
        # Points that are not there have no visibility, or lie in the corner of the image.
        there = [point for index, point in enumerate(points) if (visibilities[index] if visibilities else any(point))]
        in_box = all(abs(px - x) <= width / 2 + _SLACK and abs(py - y) <= height / 2 + _SLACK for px, py in there)
        in_image = max(abs(x - 0.5) + width / 2, abs(y - 0.5) + height / 2) <= 0.5 + _SLACK
        if step == 3:
            return bool(there) and in_box and in_image
        if not (in_box and in_image) or len(xs) < 2:
            return None
        return len(there) > 1 and all(
            min(along) < centre < max(along) and 2 * (max(along) - min(along)) >= side
            for along, centre, side in zip(zip(*there, strict=True), (x, y), (width, height), strict=True)
        )
