"""The detector that most tests of the service ask."""

import pytest

from dyzoo.model.detector import Detector
from tests.model.narrow_detectors import eager_detector


@pytest.fixture(scope="module")
def detector() -> Detector:
    return eager_detector()
