"""Reading OpenVINO's intermediate representation of strangers: an XML file, and weights in a .bin file beside it."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from dyzoo.config import DetectorConfig
from dyzoo.errors import CheckpointError, first_line
from dyzoo.files import read_regular
from dyzoo.runtime.files import WAY_OUT, told_config

MOST_XML_BYTES, MOST_WEIGHT_BYTES = 2**24, 2**31 - 1
MOST_DEPTH = 8  # net, layers, layer, output, port, dim, and a little more; OpenVINO goes down as deep as a file does
MOST_VALUES = 2**31
METADATA = "framework"  # the part of the runtime information that OpenVINO keeps an ONNX file's metadata in
WEIGHTS_DIGEST = "bin_sha256"


class Representation(NamedTuple):
    """The contents of both files, and what they say of themselves."""

    xml: bytes
    weights: bytes
    config: DetectorConfig
    told: dict[str, str]


def read_representation(path: Path) -> Representation:
    """Read an .xml file and the .bin file of the same name.

    Raises:
        CheckpointError: it is something else than `dyzoo export` writes: no XML, too deep, with entities, with layers
            of another set than OpenVINO's, with constants outside of the weights, or with weights of another file.
        OSError: one of them cannot be read, is no regular file, or too large.
    """
    xml = read_regular(path, MOST_XML_BYTES)
    net = _parse(xml, path)
    told = {entry.tag: entry.get("value", "") for entry in net.iterfind(f"rt_info/{METADATA}/*")}
    config = told_config(told, path)
    weights = read_regular(path.with_suffix(".bin"), MOST_WEIGHT_BYTES)
    _check_layers(net, len(weights), path)
    if told.get(WEIGHTS_DIGEST) != hashlib.sha256(weights).hexdigest():
        raise CheckpointError(f"{path.with_suffix('.bin')} is not the one of {path}: copy both files, or {WAY_OUT}")
    return Representation(xml, weights, config, told)


def _parse(xml: bytes, path: Path) -> Element:
    try:
        net: Element = defusedxml.ElementTree.fromstring(xml, forbid_dtd=True)
    except (DefusedXmlException, ParseError, ValueError, LookupError) as error:  # a coding that there is not
        raise CheckpointError(f"{path} is no XML that can be used: {first_line(error)}") from None
    waiting = [(net, 1)]
    while waiting:
        element, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise CheckpointError(f"{path} is nested more than {MOST_DEPTH} deep, expected no graph in a layer")
        waiting += [(child, depth + 1) for child in element]
    if net.tag != "net" or net.find("layers") is None:
        raise CheckpointError(f"{path} is a <{net.tag[:20]}>, expected a <net> of OpenVINO with layers: {WAY_OUT}")
    return net


def _check_layers(net: Element, weights: int, path: Path) -> None:
    """Refuse layers of others than OpenVINO, and constants that lie outside of the weights."""
    for layer in net.iter("layer"):
        if not re.fullmatch(r"opset\d{1,2}", layer.get("version", "")):
            raise CheckpointError(
                f"{path} has a layer {layer.get('type', '')[:40]!r} of {layer.get('version', '')[:40]!r}, expected "
                f"OpenVINO's alone: {WAY_OUT}"
            )
        if layer.get("type") == "Const":
            data = layer.find("data")
            try:
                given = {} if data is None else data.attrib
                start, size = (int(given[name]) for name in ("offset", "size"))
                sides = [int(side) for side in given.get("shape", "").split(",") if side.strip()]
            except (KeyError, ValueError):
                raise CheckpointError(f"{path} has a constant without a place in the weights: {WAY_OUT}") from None
            if min(start, size, *sides) < 0 or start + size > weights or math.prod(sides) > MOST_VALUES:
                raise CheckpointError(f"{path} has a constant outside of its {weights} bytes of weights: {WAY_OUT}")
