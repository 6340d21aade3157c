"""Small films made by the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

SIZE = (48, 64)  # H, W


def write_film(path: Path, count: int = 12, size: tuple[int, int] = SIZE, codec: str = "mpeg4", rate: int = 10) -> Path:
    """A film of grey frames; frame n has the level `level(n)`."""
    frames = [np.full((*size, 3), level(number), np.uint8) for number in range(count)]
    return write_frames(path, frames, codec, rate)


def write_frames(path: Path, frames: Sequence[np.ndarray], codec: str = "mpeg4", rate: int = 10) -> Path:
    """A film of these frames (H, W, 3)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def level(number: int) -> int:
    """The grey level of a frame of `write_film`."""
    return 20 + number * 16 % 224
