"""Objects followed through films: the same id in all frames, by ByteTrack (Zhang et al., "ByteTrack: Multi-Object
Tracking by Associating Every Detection Box", ECCV 2022) as the package trackers has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from dyzoo.errors import DyzooError, ImageError
from dyzoo.images.detections import Detections
from dyzoo.model.classes import DEFAULT_THRESHOLD, class_thresholds

LOW_SCORE = 0.1
"""Score from which on a box may hold a track, though it is not shown: ByteTrack's own."""

_LOST_FRAMES = 30  # that a track outlives without a box

AnswerT = TypeVar("AnswerT", Detections, Detections | ImageError)


def track(answers: Iterable[AnswerT], threshold: float | Mapping[str, float] = DEFAULT_THRESHOLD) -> Iterator[AnswerT]:
    """Fill in the `track_ids` of the frames of films and streams, as they come.

        answers = model.predict("film.mp4", 0.1, stream=True)
        for found in dyzoo.track(answers, threshold=0.3): ...

    Boxes of low scores keep a track going where an object is half hidden; so `predict` is asked for them, and what is
    below `threshold` is left out here. Ids count from 1 in each film; -1 has an object that is in no track, as all are
    in the frame that they first appear in. A track ends when nothing has held it for 30 frames. Classes play no part.

    Args:
        answers: of `predict`, in their order; pictures that are no frames, and errors, pass as they are but for the
            threshold.
        threshold: as for `predict`; a track begins at this score.

    Raises:
        DyzooError: the package trackers is not installed.
        ValueError: there is no such threshold.
    """
    tracker_class = load_tracker()
    return _tracked(answers, threshold, tracker_class)


def load_tracker() -> Any:
    """The tracker's class. Raises `DyzooError`: the package trackers is not installed."""
    try:
        from trackers import ByteTrackTracker
    except ImportError:
        raise DyzooError("tracking needs the package trackers: pip install 'dyzoo[track]'") from None
    return ByteTrackTracker


def least_scores(labels: Sequence[str], threshold: float | Mapping[str, float]) -> float | dict[str, float]:
    """The threshold that `predict` needs for `track` to show what is above `threshold`."""
    if not isinstance(threshold, Mapping):
        return min(threshold, LOW_SCORE)
    each = class_thresholds(labels, threshold, None).tolist()
    return {label: min(score, LOW_SCORE) for label, score in zip(labels, each, strict=True)}


def _tracked(
    answers: Iterable[AnswerT], threshold: float | Mapping[str, float], tracker_class: Any
) -> Iterator[AnswerT]:
    source: str | None = None
    frame, tracker = -1, None
    for answer in answers:
        if not isinstance(answer, Detections):
            yield answer
            continue
        is_shown = answer.scores >= class_thresholds(answer.names, threshold, None)[answer.labels]
        if answer.frame is None:
            tracker = None
        else:
            if tracker is None or answer.source != source or answer.frame <= frame:
                tracker = _tracker(tracker_class)
            source, frame = answer.source, answer.frame
            answer = replace(answer, track_ids=_ids(tracker, answer, is_shown))
        yield answer[is_shown]


def _tracker(tracker_class: Any) -> Any:
    """A new one, which takes scores of 1 for boxes that begin a track, and 0 for those that only hold one."""
    return tracker_class(
        lost_track_buffer=_LOST_FRAMES,
        minimum_consecutive_frames=1,
        track_activation_threshold=0.5,
        high_conf_det_threshold=0.5,
    )


def _ids(tracker: Any, found: Detections, is_shown: torch.Tensor) -> torch.Tensor:
    """(M,) int64 track ids of a frame's detections."""
    boxes = found.to_supervision()
    boxes.confidence = is_shown.float().numpy()  # each class may have a threshold of its own
    boxes.data["place"] = torch.arange(len(found)).numpy()
    tracked = tracker.update(boxes)
    ids = torch.full((len(found),), -1)
    if len(tracked):
        numbers = torch.from_numpy(tracked.tracker_id)
        ids[torch.from_numpy(tracked.data["place"])] = torch.where(numbers < 0, -1, numbers + 1)  # it counts from 0
    return ids
