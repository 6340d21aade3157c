"""The settings of a server, without torch, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dyzoo.config.prediction import AtLeast1, DetectConfig
from dyzoo.config.settings import Setting, documented
from dyzoo.config.values import Range


@documented
@dataclass(frozen=True, kw_only=True)
class ServeConfig(DetectConfig):
    """Settings of `dyzoo serve` and of `dyzoo.serving.create_app`: how pictures are looked at, and what is bounded."""

    host: Annotated[str, Setting("Address to listen on, 0.0.0.0 for all.", metavar="HOST")] = "127.0.0.1"
    port: Annotated[int, Range(0, 65535), Setting("Port to listen on, 0 for a free one.", metavar="PORT")] = 8000
    max_batch: Annotated[int, Range(1, 1024), Setting("Most pictures that the network sees at a time.")] = 8
    max_delay_ms: Annotated[
        float,
        Range(0, 10_000),
        Setting("How long a picture waits for others to fill a batch.", option="--max-delay", metavar="MS"),
    ] = 5.0
    max_queue: Annotated[AtLeast1, Setting("Most pictures that wait; more are answered 503.")] = 256
    max_pictures: Annotated[AtLeast1, Setting("Most pictures of a request.")] = 32
    max_bytes: Annotated[AtLeast1, Setting("Largest body of a request; a larger one is answered 413.")] = 2**26
    max_held_bytes: Annotated[
        AtLeast1,
        Setting("Most bytes of all requests at a time; more are answered 503.", option="--max-held"),
    ] = 2**29
    max_pixels: Annotated[AtLeast1, Setting("Largest image that is decoded, in pixels.")] = 2**26
    max_size: Annotated[int, Range(1, 16_384), Setting("Largest `size` that a request may ask for.", metavar="PX")] = (
        1536
    )
    timeout: Annotated[
        float,
        Range(above=0, highest=3600),
        Setting("How long a body may take to come, and an answer from then on.", metavar="S"),
    ] = 30.0
    shutdown_timeout: Annotated[
        float, Range(0, 3600), Setting("How long running requests may take when the server is stopped.", metavar="S")
    ] = 30.0
    decode_threads: Annotated[
        int | None,
        Range(1, 64),
        Setting("Threads that decode and resize pictures.", metavar="N", left_open="by the processor"),
    ] = None
    allow_urls: Annotated[bool, Setting("Fetch pictures of public addresses that requests name.")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_pictures > self.max_queue:
            raise ValueError(
                f"max_pictures is {self.max_pictures}, expected at most max_queue, which is {self.max_queue}"
            )
        if self.max_bytes > self.max_held_bytes:
            raise ValueError(
                f"max_bytes is {self.max_bytes}, expected at most max_held_bytes, which is {self.max_held_bytes}"
            )
