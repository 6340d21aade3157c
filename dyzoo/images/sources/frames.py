"""The frames of a film or stream, decoded by PyAV (FFmpeg), which is loaded when the first one is opened.

Films come from strangers: only containers are opened that hold everything themselves, or that lead to addresses of the
network alone, never to other files; and decoders refuse more pixels than are allowed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from dyzoo.errors import ImageError, first_line
from dyzoo.images.reading import MAX_PIXELS, Picture, check_pixels
from dyzoo.images.sources.base import Pending, Reading, failing
from dyzoo.text import printable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

PATIENCE_S = 10.0
"""Seconds that a stream or a server is waited for."""

_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,mjpeg,h264,hevc,m4v,flv,live_flv,ogg,asf,mxf,ivf"
)
_OF_NETWORK = f"{_CONTAINERS},hls,dash,mpjpeg,rtsp,rtp,sdp"
_QUARTERS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
_SILENCE = "nothing came for {:g} s"
_SAID_AT_MOST = 200  # characters of what FFmpeg says


def film_options() -> dict[str, str]:
    """FFmpeg's options for the content of a film: it leads nowhere else."""
    return {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}


def network_options(protocols: str) -> dict[str, str]:
    """FFmpeg's options for an address, from which playlists lead to others of these protocols."""
    return {"format_whitelist": _OF_NETWORK, "protocol_whitelist": protocols}


def load_av(name: str) -> Any:
    """PyAV. Raises `ImageError`: it is not installed."""
    try:
        import av
    except ImportError:
        raise ImageError(f"{name} is a film or stream, which needs PyAV: pip install 'dyzoo[video]'") from None
    return av


def read_frames(
    opened: str | BinaryIO, name: str, reading: Reading, options: dict[str, str], format: str | None = None
) -> Iterator[Pending]:
    """The frames, upright, those that are damaged left out; a last one that fails says how many those are.

    Args:
        opened: an open file, or an address that FFmpeg knows.
        name: how messages and pictures call it.
        reading: how to read it.
        options: FFmpeg's.
        format: FFmpeg's name of the container or device; None for what the content says.
    """
    try:
        av = load_av(name)
        with closing(_open(av, opened, name, options, reading, format)) as container:
            yield from _frames(av, container, name, reading)
    except ImageError as error:
        yield failing(str(error))


def count_frames(opened: BinaryIO, name: str, options: dict[str, str]) -> int:
    """About how many frames a film has, as its container says; 0 if that says nothing. Raises `ImageError`."""
    av = load_av(name)
    with closing(_open(av, opened, name, options, Reading(), None)) as container:
        if not container.streams.video:
            return 0
        stream = container.streams.video[0]
        seconds = (container.duration or 0) / av.time_base
        return stream.frames or int(seconds * (stream.average_rate or 0))


def _open(
    av: Any, opened: str | BinaryIO, name: str, options: dict[str, str], reading: Reading, format: str | None
) -> InputContainer:
    begin = time.monotonic()
    # The first frames are decoded here, to learn their size.
    options = {**options, "max_pixels": str(max(MAX_PIXELS, reading.max_pixels or 0))}
    try:
        return av.open(  # type: ignore[no-any-return]
            opened, format=format, options=options, metadata_errors="replace", timeout=(PATIENCE_S, PATIENCE_S)
        )
    except Exception as error:  # FFmpeg's, and those of what it opens
        why = _why(av, error) if time.monotonic() - begin < PATIENCE_S else _SILENCE.format(PATIENCE_S)
        raise ImageError(f"{name} cannot be opened as a film: {why}") from None


def _frames(av: Any, container: InputContainer, name: str, reading: Reading) -> Iterator[Pending]:
    if not container.streams.video:
        raise ImageError(f"{name} holds no film")
    stream = container.streams.video[0]
    check_pixels(name, stream.codec_context.width, stream.codec_context.height, reading.max_pixels)
    stream.thread_type = "AUTO"
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS if reading.max_pixels is None else reading.max_pixels)}
    number = -1
    damaged: list[int] = []  # the first of them, and how many
    ended = ""
    packets = container.demux(stream)
    while not ended:
        decode: Callable[[], Sequence[VideoFrame]]
        try:
            decode = next(packets).decode
        except StopIteration:
            break
        except av.error.FFmpegError as error:
            ended = _why(av, error)
            decode = partial(stream.codec_context.decode, None)  # what has arrived still comes out
        try:
            frames: list[VideoFrame | None] = list(decode())
        except av.error.EOFError:
            break
        except av.error.FFmpegError:
            frames = [None]
        for frame in frames:
            number += 1
            if frame is None or frame.is_corrupt:
                damaged = [damaged[0], damaged[1] + 1] if damaged else [number, 1]
            elif number % reading.frame_stride == 0:
                yield partial(_picture, av, frame, name, number, _time_s(frame, stream, number), reading)
    said = []
    if damaged:
        first, count = damaged
        said.append(f"{count} of {number + 1} frames cannot be decoded and are left out, the first is {first}")
    if ended:
        said.append(f"it breaks off after {number + 1} frames ({ended})")
    if number < 0 and not said:
        said.append("it has no frames")
    if said:
        raise ImageError(f"{name}: {'; '.join(said)}")


def _picture(av: Any, frame: VideoFrame, name: str, number: int, time_s: float | None, reading: Reading) -> Picture:
    check_pixels(f"{name} frame {number}", frame.width, frame.height, reading.max_pixels)
    try:
        image = frame.to_image()
    except (av.error.FFmpegError, ValueError) as error:  # of a format that cannot be converted
        raise ImageError(f"{name} frame {number} cannot be converted: {_why(av, error)}") from None
    turned = round(frame.rotation / 90) * 90 % 360  # counterclockwise
    if turned:
        image = image.transpose(_QUARTERS[turned])
    return Picture(image, (image.height, image.width), None, name, number, time_s)


def _time_s(frame: VideoFrame, stream: VideoStream, number: int) -> float | None:
    """From the start of the film, whatever number its clock begins with."""
    if frame.pts is not None and frame.time_base is not None:
        return float((frame.pts - (stream.start_time or 0)) * frame.time_base)
    rate = stream.average_rate
    return float(number / rate) if rate else None


def _why(av: Any, error: Exception) -> str:
    if isinstance(error, av.error.ExitError):
        return _SILENCE.format(PATIENCE_S)
    return printable(getattr(error, "strerror", None) or first_line(error))[:_SAID_AT_MOST]
