"""A detector whose network is OpenVINO's intermediate representation: .xml and .bin."""

from __future__ import annotations

from pathlib import Path

from dyzoo.errors import CheckpointError, first_line
from dyzoo.runtime.exported_detector import ExportedDetector
from dyzoo.runtime.openvino_files import read_representation
from dyzoo.runtime.runners import OpenVinoRunner
from dyzoo.runtime.sessions import check_installed

SUFFIX = ".xml"


class OpenVinoDetector(ExportedDetector):
    """A detector that OpenVINO runs."""

    @classmethod
    def from_file(cls, path: str | Path) -> OpenVinoDetector:
        """Load what `dyzoo export --to openvino` wrote, pictures to detections.

        Raises:
            CheckpointError: OpenVINO is not installed, or one of the files is something else or damaged.
            OSError: a file cannot be read.
        """
        check_installed(("openvino",), CheckpointError, "an OpenVINO file", extra="openvino")
        xml, weights, config, told = read_representation(Path(path))
        try:
            runner = OpenVinoRunner(xml, weights)
        except Exception as error:  # OpenVINO's are plain RuntimeErrors
            raise CheckpointError(f"OpenVINO cannot run {path}: {first_line(error)}") from None
        return cls(runner, config, told["input"], str(path), len(xml) + len(weights))
