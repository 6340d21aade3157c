"""The page's resizing is the one that the detector was trained with."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import torch

import dyzoo.demo
from dyzoo.model.preprocess import map_to_image, resize_image
from dyzoo.model.sizes import resized_size
from tests.demo.browsing import serving, visiting

PAGE = Path(dyzoo.demo.__file__).parent / "page"

RESIZE = """async ([content, size, newSize]) => {
  const { resizeRgba } = await import("/resize.js");
  const pixels = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const answer = resizeRgba(pixels, size, newSize);
  return btoa(Array.from(answer, (value) => String.fromCharCode(value)).join(""));
}"""
SIZES = """async (pairs) => {
  const { networkSize } = await import("/detections.js");
  return pairs.map(([size, edges]) => networkSize(size, edges));
}"""

BOXES = """async ([boxes, networkSize, size, inclusive]) => {
  const { boxToPicture } = await import("/detections.js");
  return boxes.map((box) => boxToPicture(box, networkSize, size, inclusive));
}"""


@pytest.fixture(scope="module")
def page(chromium: Any) -> Any:
    with serving(PAGE) as address, visiting(chromium, address) as visit:
        yield visit.page


@pytest.mark.parametrize(
    ("size", "new_size"),
    [((48, 64), (31, 43)), ((37, 53), (90, 129)), ((200, 40), (7, 40)), ((40, 200), (40, 9)), ((33, 20), (33, 20))],
    ids=lambda size: "x".join(map(str, size)),
)
def test_pixels_are_torchvisions(page: Any, size: tuple[int, int], new_size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    image[:, : size[0] // 2] = (image[:, : size[0] // 2] > 127) * 255  # black beside white, where sums run over
    rgba = torch.cat([image, torch.full((1, *size), 255, dtype=torch.uint8)]).permute(1, 2, 0).contiguous()
    answer = page.evaluate(RESIZE, [base64.b64encode(rgba.numpy().tobytes()).decode(), size, new_size])
    got = torch.frombuffer(bytearray(base64.b64decode(answer)), dtype=torch.uint8).view(3, *new_size)
    want = resize_image(image, new_size)
    difference = (got.int() - want.int()).abs().max()
    # where torch has its kernel in whole numbers; elsewhere it computes in floating point and rounds once
    in_whole_numbers = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    assert difference <= (0 if in_whole_numbers else 1)


def test_sizes_are_rounded_as_in_python(page: Any) -> None:
    """Halves go to the even neighbour: 4 x 5 pixels with a shortest edge of 2 are 2 x 2.5."""
    generator = torch.Generator().manual_seed(0)
    sizes = [*torch.randint(1, 3000, (200, 2), generator=generator).tolist(), [4, 5], [4, 7], [1, 40_000]]
    edges = [[2, 9], [320, 512], [800, 1333]]
    pairs = [[size, edge] for size in sizes for edge in edges]
    want = [list(resized_size(*size, *edge)) for size, edge in pairs]
    assert page.evaluate(SIZES, pairs) == want


@pytest.mark.parametrize("inclusive", [False, True])
def test_boxes_are_brought_to_the_picture_as_in_python(page: Any, inclusive: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(40, 4, generator=generator) * 500 - 20  # some reach out of the picture
    sizes = ((320, 427), (480, 640))
    got = torch.tensor(page.evaluate(BOXES, [boxes.tolist(), *sizes, inclusive]))
    torch.testing.assert_close(got, map_to_image(boxes, *sizes, inclusive), rtol=0, atol=1e-3)
