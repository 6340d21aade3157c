"""Pictures that the ranges of values are measured on, before they are divided into 256 steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from dyzoo.config import PreprocessConfig
from dyzoo.data import open_dataset
from dyzoo.errors import DatasetError, ExportError, ImageError
from dyzoo.images.finding import at_home, list_images
from dyzoo.images.reading import read_image
from dyzoo.model.preprocess import resize_image
from dyzoo.model.sizes import network_size

MOST_PICTURES = 128
SPLIT = "train"  # never what is measured on afterwards


def check_calibration(source: str | Path) -> None:
    """Raise an `ExportError` where there is nothing, before any work."""
    folder = at_home(source)
    if not folder.is_dir() and not any(file.is_file() for file in list_images(folder)):
        raise ExportError(f"{source} for calibration is not there, expected a folder of pictures or a dataset")


def calibration_files(source: str | Path) -> tuple[Path, ...]:
    """At most `MOST_PICTURES` files, evenly spread over all there are, the same in every run.

    Args:
        source: a folder of pictures, a glob, or a dataset, of which the split "train" is taken.

    Raises:
        ExportError: there are none.
    """
    check_calibration(source)
    files: Sequence[Path] = list_images(at_home(source))
    if not files or (files == [at_home(source)] and at_home(source).is_dir()):
        try:
            files = [sample.image_path for sample in open_dataset(at_home(source), SPLIT).samples]
        except DatasetError as error:
            raise ExportError(
                f"{source} for calibration holds no pictures and is no dataset with a split {SPLIT!r}: {error}"
            ) from None
    count = min(len(files), MOST_PICTURES)
    return tuple(files[index * len(files) // count] for index in range(count))


class CalibrationPictures:
    """Pictures in the size that the detector sees them in; those that cannot be read are passed over.

    Args:
        files: their files.
        config: how the detector takes pictures.

    Attributes:
        count: how many have been read so far.
    """

    def __init__(self, files: Sequence[Path], config: PreprocessConfig) -> None:
        self.files, self.config = files, config
        self.count = 0

    def __iter__(self) -> Iterator[Tensor]:
        """(3, H, W) uint8 RGB each.

        Raises:
            ExportError: none can be read.
        """
        reason = None
        for file in self.files:
            try:
                pixels = TF.pil_to_tensor(read_image(file))
                size = network_size(self.config, (pixels.shape[1], pixels.shape[2]), None)
                picture = resize_image(pixels, size)
            except ImageError as error:
                reason = reason or error
                continue
            self.count += 1
            yield picture
        if not self.count:
            raise ExportError(f"none of {len(self.files)} pictures for calibration can be read: {reason}")
