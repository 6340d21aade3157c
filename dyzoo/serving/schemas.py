"""The answers and parameters as the OpenAPI document has them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from dyzoo.config.serving import ServeConfig
from dyzoo.serving.bodies import ADDRESSES, BINARY, FORM


class Object(BaseModel):
    """An object in a picture."""

    name: str
    label: int = Field(description="Index of the class among those of /model.")
    score: float = Field(ge=0, le=1)
    box_xyxy: list[float] = Field(min_length=4, max_length=4, description="Pixels of the picture, on pixel edges.")


class Seen(BaseModel):
    """A picture that was looked at, as `dyzoo.Detections.from_dict` takes it."""

    path: None = None
    source: str = Field(description="Name of the file.")
    frame: None = None
    time_s: None = None
    height_px: int
    width_px: int
    notes: list[str] = Field(description="Why something may be missing.")
    detections: list[Object]


class Unusable(BaseModel):
    """A picture among others that could not be used."""

    source: str
    error: str


class Answer(BaseModel):
    """Answers in the order of the pictures."""

    model: str
    seconds: float
    results: list[Seen | Unusable]


class Error(BaseModel):
    """Why there is no answer, in one line."""

    error: str


class Health(BaseModel):
    """Whether pictures are taken."""

    status: str


class Model(BaseModel):
    """The detector, and the bounds of a request."""

    model: str
    version: str
    device: str
    labels: list[str]
    config: dict[str, Any]
    limits: dict[str, Any]


REASONS = {
    400: "The form cannot be read.", 408: "The body did not come in time.", 413: "Too many bytes or pictures.",
    415: "The body is of another type.", 422: "A parameter is out of bounds, or no picture can be used.",
    500: "The server has failed.", 503: "Too much is waiting.", 504: "There was no answer in time.",
}  # fmt: skip


def predict_document(config: ServeConfig, labels: tuple[str, ...]) -> dict[str, Any]:
    """The parameters and bodies of /predict."""
    threshold = {"type": "number", "minimum": 0, "maximum": 1}
    classes = {"type": "array", "items": {"type": "string", "enum": list(config.classes or labels)}, "minItems": 1}
    size = {"type": "integer", "minimum": 1, "maximum": config.max_size}
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": ["images"],
        "properties": {
            "images": {"type": "array", "items": binary, "minItems": 1, "maxItems": config.max_pictures},
            "threshold": threshold,
            "classes": classes,
            "size": size,
        },
        "additionalProperties": False,
    }
    content: dict[str, Any] = {FORM: {"schema": form}, "image/*": {"schema": binary}, BINARY: {"schema": binary}}
    if config.allow_urls:
        address = {"type": "string", "format": "uri", "pattern": "^https?://"}
        urls = {"type": "array", "items": address, "minItems": 1, "maxItems": config.max_pictures}
        schema = {"type": "object", "required": ["urls"], "properties": {"urls": urls}, "additionalProperties": False}
        content[ADDRESSES] = {"schema": schema}
    return {
        "parameters": [
            {"name": "threshold", "in": "query", "schema": threshold, "description": "The least score."},
            {"name": "classes", "in": "query", "schema": classes, "description": "Classes to keep."},
            {"name": "size", "in": "query", "schema": size, "description": "Shortest edge to resize to, in pixels."},
        ],
        "requestBody": {"required": True, "content": content},
    }
