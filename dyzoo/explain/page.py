"""The page of an explanation: one HTML file that needs nothing else and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from dyzoo.evaluation.report.page import page_environment
from dyzoo.explain import pictures
from dyzoo.explain.numbers import STRIPS, Strip, attribution_shares, channel_order, highest, line_counts
from dyzoo.explain.parts import Explained, LevelExplained, Stage
from dyzoo.explain.words import WORDS, stage_title, stage_words

_FOLDER = Path(__file__).parent
_REPORT_FOLDER = _FOLDER.parent / "evaluation" / "report"
_MAP_PX, _WIDE_PX, _JPEG_QUALITY = 300, 560, 82


class _Map(NamedTuple):
    """One map of a row: its title, what it is, and the picture."""

    title: str
    words: str
    source: str


class _Row(NamedTuple):
    """Maps on one scale, from 0 to `highest`."""

    maps: list[_Map]
    highest: float


class _Strip(NamedTuple):
    """One number of every channel as a row of colours, from `low` to `high`."""

    name: str
    source: str
    low: float
    high: float
    gradient: str


class _View(NamedTuple):
    """All that the page shows of one block and level."""

    block: int
    level: int
    own: LevelExplained
    activations: _Row
    attributions: _Row | None
    sampling: str
    strips: list[_Strip]
    counts: dict[str, int]


def page(explanation: Explained) -> str:
    """The HTML of the page. Names of classes and files, which come from strangers, are escaped."""
    script = (_FOLDER / "explain.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    blocks = range(len(explanation.blocks))
    levels = range(len(explanation.blocks[0]))
    detection = None if explanation.detection is None else explanation.detections[explanation.detection]
    source = explanation.detections.source
    return (
        page_environment(_FOLDER, _REPORT_FOLDER)
        .get_template("explain.html.j2")
        .render(
            explanation=explanation,
            detection=detection,
            source=None if source is None else source.replace("\\", "/").rpartition("/")[2],
            views=[_view(explanation, block, level) for block in blocks for level in levels],
            blocks=blocks,
            levels=levels,
            shares=None if detection is None else attribution_shares(explanation),
            found=_data(pictures.found_picture(explanation, 2 * _WIDE_PX)),
            saliency=None if detection is None else _data(pictures.saliency_picture(explanation, _WIDE_PX)),
            reach=[_data(pictures.reach_picture(explanation, block, _WIDE_PX)) for block in blocks],
            reach_shares=[[float(level.sum()) for level in levels] for levels in explanation.reach],
            heat=_gradient(pictures.COLORMAP),
            branch_colors=pictures.BRANCH_HEX,
            names={name for level in explanation.blocks[0] for name in level.branches},
            words=WORDS[explanation.form],
            script=Markup(script),  # ours, and the file is in the policy by its hash
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'",
        )
        .lstrip()
    )


def _view(explanation: Explained, block: int, level: int) -> _View:
    own = explanation.blocks[block][level]
    order = channel_order(own)
    strips = [
        _Strip(strip.name, _strip(strip.values(own)[order], strip), strip.low, strip.high, _gradient(strip.colors))
        for strip in STRIPS
    ]
    return _View(
        block,
        level,
        own,
        _row(explanation, own, own.activations),
        None if own.attributions is None else _row(explanation, own, own.attributions),
        _data(pictures.sampling_picture(explanation, block, level)),
        strips,
        line_counts(own),
    )


def _row(explanation: Explained, own: LevelExplained, maps: Mapping[Stage, np.ndarray]) -> _Row:
    most = highest(maps)
    return _Row(
        [
            _Map(
                stage_title(explanation, stage),
                stage_words(explanation, stage),
                _data(pictures.map_picture(explanation, values, own.cell_px, most, _MAP_PX)),
            )
            for stage, values in maps.items()
        ],
        most,
    )


def _strip(values: np.ndarray, strip: Strip) -> str:
    """A picture one pixel high, which the page stretches."""
    share = (values - strip.low) / (strip.high - strip.low)
    colors = colormaps[strip.colors](np.clip(share, 0, 1), bytes=True)[None, :, :3]
    return _data(Image.fromarray(np.ascontiguousarray(colors)), "PNG")


def _gradient(colors: str) -> str:
    """The colours of a map as a CSS gradient."""
    stops = ", ".join(to_hex(colormaps[colors](step / 8)) for step in range(9))
    return f"linear-gradient(to right, {stops})"


def _data(picture: Image.Image, kind: str = "JPEG") -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=_JPEG_QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
