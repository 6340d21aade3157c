"""A folder with a page that runs a detector in its visitor's browser: for any static server, or a static Space."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCardData

from dyzoo._version import __version__
from dyzoo.demo import runtime
from dyzoo.errors import ExportError
from dyzoo.export.exporting import check_before_loading, check_exportable, export_detector
from dyzoo.export.options import ExportOptions
from dyzoo.files import check_is_new, folder_aside, write_text
from dyzoo.hub.cards import terms_of
from dyzoo.hub.markdown import one_line, plain
from dyzoo.images.colors import RGB, class_color, text_color
from dyzoo.images.drawing import save_picture
from dyzoo.images.reading import ImageSource, to_picture
from dyzoo.model.classes import DEFAULT_THRESHOLD
from dyzoo.model.detector import Detector
from dyzoo.runtime.onnx_detector import OnnxDetector
from dyzoo.runtime.sessions import TO_EXPORT, check_deform_conv, check_installed
from dyzoo.text import printable
from dyzoo.zoo.catalog import checkpoints, sample_image

MODEL_NAME, SAMPLE_NAME, SETTINGS_NAME = "detector.onnx", "sample.jpg", "detector.json"

MOST_MODEL_BYTES = 2**28
"""Bytes of the largest detector for a page, 268 million, which is 67 million parameters in float32: a visitor has to
fetch them, and a browser has 4 GB for their copies and all maps."""

# What lets a page share memory between threads; static Spaces take them from the head of README.md.
ISOLATION_HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}

_PAGE = Path(__file__).parent / "page"
_MOST_SAMPLE_SIDE = 2048  # pixels
_COLORS = 256  # after which they begin again


def write_static_page(
    model: Detector,
    folder: str | Path,
    *,
    title: str,
    license: str | None = None,
    sample: ImageSource | None = None,
    options: ExportOptions | None = None,
    repo_id: str | None = None,
) -> None:
    """Write a page that detects in pictures and in the camera's, in the browser, and needs no other server than one
    for files.

    Args:
        model: a detector, which is exported, or one that was loaded from an exported file, which is copied.
        folder: a new or empty one; it is there as a whole or not at all.
        title: heading of the page.
        license: the Hub's short name of the weights' licence, for README.md; None: what the model card says.
        sample: picture of the page's button, and what the export is compared on; None for the package's.
        options: how it is exported, pictures to detections; None for `page_options`.
        repo_id: the detector's on the Hub, org/name, where the folder becomes its Space: README.md names it.

    Raises:
        ExportError: the folder is not empty, the detector is too large or cannot be exported, or its file is not there.
        ImageError: the sample cannot be read.
        OSError: the disk is full, or cannot be written to.
    """
    folder = Path(folder)
    check_is_new(folder, ExportError)
    options = check_fits(model, options)
    picture = None if sample is None else to_picture(sample)
    with folder_aside(folder) as aside:
        shutil.copytree(_PAGE, aside, dirs_exist_ok=True)
        if picture is None:
            shutil.copyfile(sample_image(), aside / SAMPLE_NAME)
        else:  # made anew: what a camera writes beside the pixels is nobody's business
            small = picture.image.copy()
            small.thumbnail((_MOST_SAMPLE_SIDE, _MOST_SAMPLE_SIDE))
            save_picture(small, aside / SAMPLE_NAME)
        if isinstance(model, OnnxDetector):
            shutil.copyfile(model.name, aside / MODEL_NAME)
        else:
            export_detector(model, aside / MODEL_NAME, options, picture)
            _check_size((aside / MODEL_NAME).stat().st_size)
        files = _write_runtime(aside)
        settings = _settings(model, title, options, (aside / MODEL_NAME).stat().st_size, files)
        write_text(aside / SETTINGS_NAME, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        license = license or terms_of(model.model_card(title)).license
        write_text(aside / "README.md", _readme(model, title, license, repo_id))


def page_options() -> ExportOptions:
    """The options that run fastest in a browser, of those that can be compared here before.

    Raises:
        ExportError: what exporting needs is not installed.
    """
    check_installed(TO_EXPORT, ExportError, "a page")
    try:
        check_deform_conv(ExportError, "")
    except ExportError:
        return ExportOptions(deform_conv="grid-sample")
    return ExportOptions()


def catalogue_licence(name: str) -> str | None:
    """The Hub's short name of the licence of a checkpoint's weights; None for any other name."""
    checkpoint = checkpoints().get(name)
    return None if checkpoint is None else checkpoint.licence.lower()


def check_fits(model: Any, options: ExportOptions | None = None) -> ExportOptions:
    """Refuse what cannot become a page, before any work is done for it; gives the options, or those that None is for.

    Raises:
        ExportError: it is too large, cannot be exported, or what exporting needs is not installed.
    """
    if options is None:
        options = ExportOptions() if isinstance(model, OnnxDetector) else page_options()
    if not (options.decode and options.preprocess):
        raise ExportError("a page needs a detector from pictures to detections: export with decode and preprocess")
    if isinstance(model, OnnxDetector):
        path = Path(model.name)
        if not path.is_file():
            raise ExportError(f"{path} is no longer there, expected the file that the detector was loaded from")
        _check_size(path.stat().st_size)
        return options
    check_before_loading(options)
    check_exportable(model)
    _check_size(sum(4 * parameter.numel() for parameter in model.parameters()))
    return options


def _check_size(size: int) -> None:
    if size > MOST_MODEL_BYTES:
        raise ExportError(
            f"the detector takes {size / 1e6:.0f} MB, expected at most {MOST_MODEL_BYTES / 1e6:.0f} for a browser: "
            "choose one with a smaller backbone"
        )


def _write_runtime(folder: Path) -> dict[str, Any]:
    """Unpack onnxruntime-web into the page's folder; gives the names and the size that the page has to know."""
    (folder / "runtime").mkdir()
    # not every server knows that .mjs is JavaScript, and browsers run nothing that the server calls otherwise
    names = {name: f"runtime/{name.removesuffix('.mjs')}{'.js' * name.endswith('.mjs')}" for name in runtime.NAMES}
    for name, place in names.items():
        (folder / place).write_bytes(runtime.read_file(name))
    binary = names[runtime.BINARY_NAME]
    return {"module": names[runtime.MODULE_NAME], "binary": binary, "bytes": (folder / binary).stat().st_size}


def _settings(
    model: Detector, title: str, options: ExportOptions, model_bytes: int, runtime_files: dict[str, Any]
) -> dict[str, Any]:
    preprocess = model.config.preprocess
    return {
        "title": printable(title),
        "about": f"{model.config.architecture}, made by dyzoo {__version__}, run by onnxruntime-web "
        f"{runtime.origin()['version']}.",
        "labels": [printable(name) for name in model.labels],
        "colors": [
            (_hex(class_color(label)), _hex(text_color(class_color(label))))
            for label in range(min(len(model.labels), _COLORS))
        ],
        "size": [preprocess.shortest_edge, preprocess.longest_edge],
        "input": model.input_type if isinstance(model, OnnxDetector) else options.input_type,
        "inclusive_corners": model.head.inclusive_corners,
        "threshold": DEFAULT_THRESHOLD,
        "sample": SAMPLE_NAME,
        "model": {"file": MODEL_NAME, "bytes": model_bytes},
        "runtime": runtime_files,
    }


def _hex(color: RGB) -> str:
    return "#" + bytes(color).hex()


def _readme(model: Detector, title: str, license: str | None, repo_id: str | None) -> str:
    data = SpaceCardData(
        title=one_line(printable(title)),
        sdk="static",
        app_file="index.html",
        license=one_line(license or "") or None,
        models=None if repo_id is None else [repo_id],
        pinned=False,
        custom_headers=ISOLATION_HEADERS,
    )
    count = len(model.labels)
    if repo_id is None:
        made_from = f"`{model.config.architecture}`"
        way_to_the_hub = """
As a static Space: `hf repos create ME/NAME --type space --sdk static`, then
`hf upload ME/NAME . . --repo-type space`. The head of this file asks for the headers with which the detector may use
several threads; without them it uses one.
"""
    else:
        made_from = f"the detector [{repo_id}](/{repo_id})"
        way_to_the_hub = """
`dyzoo push --space --space-sdk static` writes all files but this one anew.
"""
    return f"""\
---
{data.to_yaml()}
---

# {plain(title)}

A page that finds objects of {f"{count} classes" if count > 1 else "one class"} in pictures and in the camera's, in the
browser: no picture leaves the device. Made by dyzoo {__version__} from {made_from}.

On this machine: `python -m http.server` in this folder, then open `http://localhost:8000`.
{way_to_the_hub}
`runtime/` holds onnxruntime-web {runtime.origin()["version"]} (MIT licence) and its notices.
"""
