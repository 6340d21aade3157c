"""Detect objects with an exported ONNX file: numpy, Pillow and onnxruntime, nothing else.

    python onnx_predict.py cells.onnx picture.jpg --out found.jpg

The file is what `dyzoo export` writes, from pictures to detections; all that is needed is in its metadata.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps


class Found(NamedTuple):
    """Objects in a picture, the best first."""

    boxes: np.ndarray  # (M, 4) float32, x1, y1, x2, y2 in pixels of the picture
    scores: np.ndarray  # (M,) float32 in 0..1
    labels: list[str]


class Predictor:
    """An exported detector.

    Args:
        path: of the ONNX file.

    Raises:
        SystemExit: it is no such file, or one without preprocessing or detections.
    """

    def __init__(self, path: str) -> None:
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            facts = self.session.get_modelmeta().custom_metadata_map
            if missing := {"labels", "size", "input", "output", "head"} - facts.keys():
                raise ValueError(f"its metadata lack {', '.join(sorted(missing))}, expected a file of `dyzoo export`")
            self.names = json.loads(facts["labels"])
            self.shortest, self.longest = json.loads(facts["size"])
            self.takes, gives, self.head = facts["input"], facts["output"], facts["head"]
        except Exception as error:  # onnxruntime has a class of its own for each reason
            raise SystemExit(f"{path} cannot be used: {str(error).splitlines()[0]}") from None
        if gives != "detections" or self.takes not in ("uint8", "float32"):
            raise SystemExit(f"{path} takes {self.takes} and gives {gives}, expected pictures and detections")

    def __call__(self, picture: Image.Image, threshold: float = 0.3) -> Found:
        """Find objects in a picture, turned upright as its EXIF data say."""
        picture = upright(picture)
        width, height = self.network_size(*picture.size)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)  # averages where it makes smaller
        pixels = np.asarray(resized).transpose(2, 0, 1)[None]
        if self.takes == "float32":
            pixels = pixels.astype(np.float32) / 255
        names = ["boxes", "scores", "labels", "counts"]
        boxes, scores, labels, counts = self.session.run(names, {"images": np.ascontiguousarray(pixels)})
        kept = np.flatnonzero(scores[0, : counts[0]] >= threshold)
        last = np.array([0, 0, 1, 1] if self.head == "grounded_atss" else [0] * 4)  # whose last pixel is inside
        scale = np.array([picture.width / width, picture.height / height] * 2)
        original = (boxes[0, kept] - last) * scale + last
        original = original.clip(0, np.array([*picture.size] * 2)).astype(np.float32)
        return Found(original, scores[0, kept], [self.names[label] for label in labels[0, kept]])

    def network_size(self, width: int, height: int) -> tuple[int, int]:
        """The size that the detector was trained at: shortest edge so long, and the longest edge no longer than."""
        scale = min(self.shortest / min(width, height), self.longest / max(width, height))
        return max(round(width * scale), 1), max(round(height * scale), 1)


def upright(picture: Image.Image) -> Image.Image:
    """The picture as RGB, turned and mirrored as its EXIF data say; what is transparent lies on white."""
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        below = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(below, picture.convert("RGBA"))
    return picture.convert("RGB")


def draw(picture: Image.Image, found: Found) -> Image.Image:
    """A copy of the picture, upright, with boxes and names."""
    drawn = upright(picture).copy()
    pen = ImageDraw.Draw(drawn)
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        x1, y1, x2, y2 = (float(value) for value in box)
        pen.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline="red", width=2)
        pen.text((x1 + 3, y1 + 2), f"{label} {score:.2f}", fill="red")
    return drawn


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="file of `dyzoo export`")
    parser.add_argument("picture", help="image file of any kind that Pillow reads")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score (default: 0.3)")
    parser.add_argument("--out", metavar="FILE", help="where the picture with boxes goes")
    parser.add_argument("--json", metavar="FILE", help="where the objects go as JSON")
    chosen = parser.parse_args()
    predictor = Predictor(chosen.model)
    try:
        with Image.open(chosen.picture) as picture:
            picture.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SystemExit(f"{chosen.picture} cannot be read: {error}") from None
    found = predictor(picture, chosen.threshold)
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        print(f"{label} {score:.3f} at {' '.join(f'{value:.1f}' for value in box)}")
    print(f"{len(found.labels)} objects")
    if chosen.json:
        objects = [
            {"box": [float(value) for value in box], "score": float(score), "label": label}
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
        ]
        Path(chosen.json).write_text(json.dumps(objects, indent=2), encoding="utf-8")
    if chosen.out:
        draw(picture, found).save(chosen.out)


if __name__ == "__main__":
    main()
