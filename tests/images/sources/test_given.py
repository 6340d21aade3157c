"""Whatever `predict` may be given, as sources, and what it may not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dyzoo.errors import ImageError
from dyzoo.images.reading import Picture
from dyzoo.images.sources.base import Reading
from dyzoo.images.sources.film import Camera
from dyzoo.images.sources.given import given_sources
from dyzoo.images.sources.naming import list_sources


def pictures(given: Any) -> list[Picture]:
    made = [pending() for source in given_sources(given) for pending in source.open(Reading())]
    assert all(isinstance(picture, Picture) for picture in made)
    return made  # type: ignore[return-value]


def png(size: tuple[int, int] = (7, 5)) -> bytes:
    content = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(content, "PNG")
    return content.getvalue()


def kinds(folder: Path) -> dict[str, tuple[Any, int]]:
    """Every kind by name, with how many pictures it gives; each is 5 x 7."""
    path = folder / "a.png"
    path.write_bytes(png())
    image, array, tensor = Image.new("RGB", (7, 5)), np.zeros((5, 7, 3), np.uint8), torch.zeros(3, 5, 7)
    return {
        "text": (str(path), 1),
        "path": (path, 1),
        "folder": (folder, 1),
        "source": (list_sources(path)[0], 1),
        "PIL": (image, 1),
        "array": (array, 1),
        "grey array": (array[..., 0], 1),
        "arrays": (np.stack([array] * 3), 3),
        "tensor": (tensor, 1),
        "batch": (torch.stack([tensor] * 2), 2),
        "bytes": (png(), 1),
        "bytearray": (bytearray(png()), 1),
        "picture": (Picture(image, (5, 7)), 1),
        "list": ([path, image, tensor], 3),
        "tuple": ((array, array), 2),
        "generator": ((each for each in (path, png())), 2),
        "nested": ([[path, image], torch.stack([tensor] * 2), (each for each in [array])], 5),
        "nothing": ([], 0),
    }


@pytest.mark.parametrize("kind", [
    "text", "path", "folder", "source", "PIL", "array", "grey array", "arrays", "tensor", "batch", "bytes", "bytearray",
    "picture", "list", "tuple", "generator", "nested", "nothing",
])  # fmt: skip
def test_pictures_come_out_of_every_kind(tmp_path: Path, kind: str) -> None:
    given, count = kinds(tmp_path)[kind]
    assert [picture.size for picture in pictures(given)] == [(5, 7)] * count


@pytest.mark.parametrize(
    "given",
    [None, 1.5, True, {"a": "b"}, object(), io.BytesIO(b"x"), [[[1]]], [[0]], [["a.png", [1]]], int],
    ids=["None", "number", "bool", "dict", "object", "file", "deep", "number in a nest", "deep path", "class"],
)
def test_what_is_no_picture_is_one_line_with_what_came_and_what_was_expected(given: Any) -> None:
    *_, source = given_sources(given)
    (pending,) = source.open(Reading())
    with pytest.raises(ImageError, match=r"^the image is an? \w+, expected a path, .* or an iterable of these$"):
        pending()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"no picture", "the content (10 bytes) is not an image of a known format"),
        (b"", "the content (0 bytes) is empty"),
        (png((64, 64))[:1000], "is damaged"),
        (np.zeros((3, 5), np.int64), "image values are int64"),
        (torch.zeros(2, 5, 7), "image tensor is (2, 5, 7)"),
        (torch.zeros(2, 2, 5, 7), "image tensor is (2, 5, 7)"),
    ],
    ids=["bytes", "no bytes", "cut bytes", "type", "channels", "batch"],
)
def test_content_that_is_no_picture_is_one_line(given: Any, said: str) -> None:
    source = next(given_sources(given))
    (pending,) = source.open(Reading())
    with pytest.raises(ImageError) as caught:
        pending()
    assert said in str(caught.value)


def test_a_number_is_a_camera() -> None:
    assert list(given_sources(0)) == [Camera(0, "camera 0")]
    assert list(given_sources([1, 2])) == [Camera(1, "camera 1"), Camera(2, "camera 2")]


def test_iterators_are_asked_when_a_picture_is_needed() -> None:
    asked = []

    def generated() -> Iterator[np.ndarray]:
        for number in range(10):
            asked.append(number)
            yield np.zeros((5, 7, 3), np.uint8)

    sources = given_sources(generated())
    assert asked == []
    next(sources)
    next(sources)
    assert asked == [0, 1]
