from dataclasses import replace

import pytest
import torch

from dyzoo.config import PreprocessConfig
from dyzoo.errors import ImageError
from dyzoo.model.preprocess import batch_images, map_to_image, resize_image
from dyzoo.model.sizes import MAX_BATCH_PIXELS, padded_size, resized_size

CPU = torch.device("cpu")
PLAIN = PreprocessConfig(mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0), size_divisor=32)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((100, 1000), (133, 1333)),  # the longest edge decides
        ((1, 1), (800, 800)),
        ((1, 20_000), (1, 1333)),
        ((20_000, 3), (1333, 1)),
    ],
)
def test_resized_size(image_size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*image_size, shortest_edge=800, longest_edge=1333) == expected


def test_a_batch_is_normalised_and_padded_with_the_mean_colour() -> None:
    images = [torch.full((3, 40, 20), 30, dtype=torch.uint8), torch.full((3, 10, 50), 255, dtype=torch.uint8)]
    batch, sizes = batch_images(images, PLAIN, CPU)
    assert batch.shape == (2, 3, 64, 64)
    assert sizes == [(40, 20), (10, 50)]
    assert batch[0, :, 39, 19].tolist() == [10.0, 2.5, 0.0]
    assert batch[0, :, 40:].abs().max() == 0
    assert batch[0, :, :, 20:].abs().max() == 0


def test_floats_in_0_to_1_equal_bytes_and_bgr_swaps_the_channels() -> None:
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    from_bytes, _ = batch_images([image], PLAIN, CPU)
    from_floats, _ = batch_images([image / 255.0], PLAIN, CPU)
    torch.testing.assert_close(from_bytes, from_floats)
    swapped = PreprocessConfig(channel_order="BGR", mean=(30.0, 20.0, 10.0), std=(5.0, 4.0, 2.0), size_divisor=32)
    torch.testing.assert_close(batch_images([image], swapped, CPU)[0].flip(1), from_bytes)


@pytest.mark.parametrize("images", [[], [torch.zeros(1, 8, 8)], [torch.zeros(3, 0, 8)], [torch.zeros(3, 8)]])
def test_wrong_images_are_refused(images: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"expected .*\(3, H, W\)"):
        batch_images(images, PLAIN, CPU)


def test_boxes_come_back_to_image_pixels_and_stay_inside() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 40.0], [-5.0, -5.0, 500.0, 500.0]])
    mapped = map_to_image(boxes, network_size=(100, 200), image_size=(50, 400))
    assert mapped.tolist() == [[20.0, 10.0, 60.0, 20.0], [0.0, 0.0, 400.0, 50.0]]


def test_resizing_keeps_a_coloured_block_where_its_box_maps_to() -> None:
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    image[:, 20:40, 40:60] = 255
    bright = (resize_image(image, (120, 160))[0] > 127).nonzero()
    assert bright.min(0).values.tolist() == [40, 80]
    assert (bright.max(0).values + 1).tolist() == [80, 120]


def test_a_batch_has_a_bound_before_anything_is_allocated() -> None:
    side = int(MAX_BATCH_PIXELS**0.5)
    assert padded_size([(side, side)], 32) == (side, side)
    assert padded_size([(1333, 800), (800, 2000)] * 32, 32) == (1344, 2016), "what is trained on at most"
    for sizes, divisor, words in (
        ([(side, side + 1)], 32, "16384 x 16416 pixels"),
        ([(side, 1), (1, side)], 1, "2 images of 16384 x 16384"),
        ([(8, 8)], 99_999, "99999 x 99999 pixels .* multiples of 99999"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            padded_size(sizes, divisor)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="expected at most 268 million"):
        batch_images([torch.zeros(3, 8, 8)], replace(PLAIN, size_divisor=99_999), CPU)
