"""Reading image files and arrays of every kind."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dyzoo.errors import ImageError
from dyzoo.images import reading
from dyzoo.images.finding import list_images
from dyzoo.images.reading import decode_picture, read_image, read_image_size, read_picture, to_rgb

ORIENTATION_TAG = 0x0112


def gradient(width: int = 7, height: int = 5) -> Image.Image:
    """An RGB picture without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack((x * 30, y * 40, x * y * 3), axis=-1).astype(np.uint8))


def write_rotated(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    gradient(60, 40).save(path, exif=exif)
    return path


def jpeg_of_scans(copies: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times."""
    content = io.BytesIO()
    gradient(60, 40).save(content, "JPEG", progressive=True)
    begin, end = content.getvalue().rfind(b"\xff\xda"), content.getvalue().rfind(b"\xff\xd9")
    head, scan, rest = content.getvalue()[:begin], content.getvalue()[begin:end], content.getvalue()[end:]
    return head + scan * copies + rest


def test_a_jpeg_of_strangers_with_thousands_of_scans_is_not_decoded() -> None:
    assert decode_picture(jpeg_of_scans(1), "a.jpg").size == (40, 60)
    with pytest.raises(ImageError, match=r"a\.jpg is a JPEG of \d+ scans, expected at most 100"):
        decode_picture(jpeg_of_scans(5000), "a.jpg")


# --- what cannot be read ---------------------------------------------------------------------------------------------


def missing(folder: Path) -> Path:
    return folder / "absent.jpg"


def text(folder: Path) -> Path:
    (folder / "text.jpg").write_text("this is no picture\n" * 100)
    return folder / "text.jpg"


def empty(folder: Path) -> Path:
    (folder / "empty.png").touch()
    return folder / "empty.png"


def truncated_jpeg(folder: Path) -> Path:
    path = folder / "short.jpg"
    gradient(300, 200).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    return path


def truncated_png(folder: Path) -> Path:
    path = folder / "short.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    return path


def empty_folder(folder: Path) -> Path:
    return folder


def folder_of_images(folder: Path) -> Path:
    gradient().save(folder / "a.png")
    return folder


def bomb(folder: Path) -> Path:
    gradient().save(folder / "bomb.png")
    content = bytearray((folder / "bomb.png").read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)  # width and height in the header chunk, and its checksum
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (folder / "bomb.png").write_bytes(content)
    return folder / "bomb.png"


def postscript(folder: Path) -> Path:
    gradient().save(folder / "page.eps")
    return folder / "page.eps"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo.png")
    return folder / "fifo.png"


def endless_device(folder: Path) -> Path:
    return Path("/dev/zero")


def circle(folder: Path) -> Path:
    (folder / "circle.png").symlink_to("circle.png")
    return folder / "circle.png"


def long_name(folder: Path) -> Path:
    return folder / ("n" * 300)


def null_byte(folder: Path) -> Path:
    return folder / "a\0b.png"


def above_our_limit(folder: Path) -> Path:
    """134 million pixels and one column, in a few kB."""
    Image.new("1", (2**14 + 1, 2**13)).save(folder / "large.png")
    return folder / "large.png"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (fifo, "no regular file"),
        (endless_device, "no regular file"),
        (circle, "symbolic links"),
        (long_name, "too long"),
        (null_byte, "null byte"),
        (above_our_limit, "16385 x 8192 pixels, 134 million, expected at most 134 million"),
        (missing, "no such file"),
        (text, "is not an image of a known format"),
        (empty, "is empty"),
        (truncated_jpeg, "is damaged"),
        (truncated_png, "is damaged"),
        (empty_folder, "holds no image"),
        (folder_of_images, "expected an image file"),
        (bomb, "400000000 pixels"),
        (postscript, "is not an image of a known format"),
    ],
)
def test_unreadable_file_is_an_error_of_one_line_that_names_it(make, words: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert words in message
    assert "\n" not in message


# --- what can --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_extreme_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (9, 8, 7)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.size == size == read_image_size(tmp_path / "a.png")
    assert image.getpixel((size[0] - 1, size[1] - 1)) == (9, 8, 7)


def half_transparent_palette() -> Image.Image:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 100, 0, 0, 0, 0])
    image.info["transparency"] = 1
    image.putpixel((3, 3), 1)
    return image


@pytest.mark.parametrize(
    ("suffix", "image", "first_pixel", "last_pixel"),
    [
        ("png", Image.new("1", (4, 4), 1), (255, 255, 255), (255, 255, 255)),
        ("png", Image.new("L", (4, 4), 77), (77, 77, 77), (77, 77, 77)),
        ("png", Image.new("LA", (4, 4), (77, 0)), (255, 255, 255), (255, 255, 255)),
        ("png", half_transparent_palette(), (200, 100, 0), (255, 255, 255)),
        ("gif", half_transparent_palette(), (200, 100, 0), (255, 255, 255)),
        ("png", Image.new("RGBA", (4, 4), (0, 100, 200, 255)), (0, 100, 200), (0, 100, 200)),
        ("png", Image.new("RGBA", (4, 4), (255, 0, 0, 51)), (255, 204, 204), (255, 204, 204)),
        ("tif", Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0), (255, 0, 0)),
        ("png", Image.new("I;16", (4, 4), 257 * 77), (77, 77, 77), (77, 77, 77)),
        ("tif", Image.new("I;16B", (4, 4), 257 * 77), (77, 77, 77), (77, 77, 77)),
        ("tif", Image.new("F", (4, 4), 0.2), (51, 51, 51), (51, 51, 51)),
        ("webp", Image.new("RGB", (4, 4), "white"), (255, 255, 255), (255, 255, 255)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_mode_becomes_rgb(suffix: str, image: Image.Image, first_pixel, last_pixel, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    rgb = read_image(path)
    assert rgb.mode == "RGB"
    assert rgb.getpixel((0, 0)) == first_pixel
    assert rgb.getpixel((3, 3)) == last_pixel


def test_cmyk_jpeg_keeps_its_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = read_image(tmp_path / "a.jpg").getpixel((16, 16))
    assert red > 240
    assert max(green, blue) < 15


def test_16_bit_grey_uses_its_full_range(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation: int, suffix: str, tmp_path: Path) -> None:
    path = write_rotated(tmp_path / f"a.{suffix}", orientation)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    image = read_image(path)
    assert np.array_equal(np.asarray(image), expected)
    assert np.array_equal(np.asarray(to_rgb(image)), expected)
    assert read_image_size(path) == image.size == ((60, 40) if orientation < 5 else (40, 60))


def test_damaged_exif_does_not_lose_the_picture(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").size == (7, 5)


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    gradient().save(tmp_path / "a.png")
    assert read_image("~/a.png").size == (7, 5)
    assert list_images("~/*.png") == [tmp_path / "a.png"]


# --- huge pictures ---------------------------------------------------------------------------------------------------


def test_an_image_of_more_pixels_is_read_if_that_is_allowed(tmp_path: Path) -> None:
    gradient(20, 10).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=200).size == (20, 10)
    with pytest.raises(ImageError, match="20 x 10 pixels"):
        read_image(tmp_path / "a.png", max_pixels=199)


def white_block(width: int, height: int) -> Image.Image:
    """Black, with a white block over its last quarter: where it begins tells where each pixel went."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[3 * height // 4 :, 3 * width // 4 :] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("size", "scale"), [((800, 640), 4), ((797, 641), 4), ((300, 200), 2), ((200, 150), 1)])
def test_a_large_jpeg_is_decoded_at_a_reduced_scale_without_a_shift(
    size: tuple[int, int], scale: int, orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    white_block(*size).save(tmp_path / "a.jpg", exif=exif, quality=95)
    whole = read_image(tmp_path / "a.jpg")
    monkeypatch.setattr(reading, "REDUCED_ABOVE", 33_000)
    picture = read_picture(tmp_path / "a.jpg", max_pixels=40_000)
    assert picture.size == (whole.height, whole.width)
    assert picture.image.size == (-(-whole.width // scale), -(-whole.height // scale))
    assert (picture.path, picture.image.mode) == (tmp_path / "a.jpg", "RGB")
    enlarged = np.asarray(picture.image.resize(whole.size, Image.Resampling.BILINEAR), dtype=float)
    for axis in (0, 1):
        profiles = [np.asarray(each, dtype=float).mean(axis=(1 - axis, 2)) for each in (enlarged, whole)]
        middles = [(profile * np.arange(len(profile))).sum() / profile.sum() for profile in profiles]
        assert middles[0] == pytest.approx(middles[1], abs=0.35), "in pixels of the file"


def test_the_scale_is_not_reduced_below_the_size_of_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "REDUCED_ABOVE", 1000)
    gradient(640, 480).save(tmp_path / "a.jpg")
    for least, expected in (((120, 160), (160, 120)), ((121, 160), (320, 240)), ((480, 640), (640, 480))):
        assert read_picture(tmp_path / "a.jpg", lambda size, least=least: least).image.size == expected
    with pytest.raises(ImageError, match="640 x 480"):
        read_picture(tmp_path / "a.jpg", lambda size: size, max_pixels=300_000)


@pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "JPEG", "progressive": True}])
def test_what_has_to_be_decoded_whole_is_refused_above_the_limit(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "REDUCED_ABOVE", 1000)
    gradient(64, 48).save(tmp_path / "a", **options)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="64 x 48 pixels"):
        read_picture(tmp_path / "a", max_pixels=3000)
    assert read_picture(tmp_path / "a", max_pixels=4000).size == (48, 64)


# --- arrays and tensors ----------------------------------------------------------------------------------------------


def test_every_form_of_one_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    picture = gradient()
    picture.save(tmp_path / "a.png")
    pixels = np.asarray(picture)
    channels_first = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    opaque = np.concatenate((pixels, np.full((5, 7, 1), 255, dtype=np.uint8)), axis=2)
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.open(tmp_path / "a.png"),
        pixels,
        pixels[::-1][::-1],
        opaque,
        pixels.astype(np.uint16) * 257,
        pixels / 255,
        (pixels / 255).astype(np.float32),
        channels_first,
        channels_first / 255,
        (channels_first / 255).requires_grad_(),
    ]
    for form in forms:
        assert np.array_equal(np.asarray(to_rgb(form)), pixels)


def test_to_rgb_gives_a_copy() -> None:
    picture = gradient()
    to_rgb(picture).putpixel((0, 0), (1, 2, 3))
    assert picture.getpixel((0, 0)) == (0, 0, 0)


def test_grey_arrays() -> None:
    grey = np.array([[0, 255]], dtype=np.uint8)
    for form in (grey, grey[..., None], grey.astype(bool), torch.from_numpy(grey)[None]):
        assert np.asarray(to_rgb(form)).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((3, 8, 9), np.uint8), "move the channels to the end"),
        (np.zeros((8, 9, 2), np.uint8), r"\(8, 9, 2\)"),
        (np.zeros((0, 9, 3), np.uint8), "at least one pixel"),
        (np.zeros((8, 9, 3), np.int64), "int64"),
        (np.full((8, 9, 3), 255.0), "from 255 to 255, expected 0..1"),
        (np.full((8, 9, 3), np.nan), "nan"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), r"\(8, 9, 3\), expected \(3, H, W\)"),
        (torch.zeros(1, 3, 8, 9), r"\(1, 3, 8, 9\)"),
        (Image.new("I", (2, 2), 70_000), "70000"),
        (17, "int"),
    ],
)
def test_unusable_arrays_are_named(source: object, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        to_rgb(source)


def test_a_truncated_file_opened_by_the_caller_is_an_image_error(tmp_path: Path) -> None:
    with Image.open(truncated_jpeg(tmp_path)) as image, pytest.raises(ImageError, match="truncated"):
        to_rgb(image)
