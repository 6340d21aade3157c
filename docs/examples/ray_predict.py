"""Detect in all pictures of folders, or of a Parquet file's column of image files, as a Ray Data batch job.

    pip install dyzoo 'ray[data]'
    python ray_predict.py --out found photos/ more/
    python ray_predict.py --out found --column image shards.parquet

Ray starts on this machine unless `RAY_ADDRESS` names a cluster, reads the pictures in pieces, and hands them in batches
to actors, each with a detector of its own. OUT gets Parquet files with a row for each object, and one with a null label
for each picture that nothing was found in; a picture that cannot be read has a row that says why.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

import dyzoo
from dyzoo.errors import ImageError

COLUMNS = pa.schema(
    [("path", pa.string()), ("label", pa.int64()), ("name", pa.string()), ("score", pa.float64())]
    + [(side, pa.float64()) for side in ("x1", "y1", "x2", "y2")]
    + [("error", pa.string())]
)


class Detect:
    """An actor's detector, loaded once; called with a batch of image files, `bytes`, and their names, `path`."""

    def __init__(self, model: str, threshold: float, size: int | None, gpus: float) -> None:
        self.detector = dyzoo.load(model).to("cuda" if gpus else "cpu")
        self.settings = {"threshold": threshold, "size": size}

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows: list[dict[str, Any]] = []
        names = batch["path"].to_pylist()
        pictures = [content or b"" for content in batch["bytes"].to_pylist()]
        answers = self.detector.predict(pictures, on_error="return", **self.settings)
        for name, found in zip(names, answers, strict=True):
            if isinstance(found, ImageError):
                rows.append({"path": name, "error": str(found)})
                continue
            for each in found:
                sides = dict(zip(("x1", "y1", "x2", "y2"), each.box_xyxy, strict=True))
                rows.append({"path": name, "label": each.label, "name": each.name, "score": each.score, **sides})
            if not len(found):
                rows.append({"path": name})
        return pa.Table.from_pylist(rows, schema=COLUMNS)


def read(sources: list[str], column: str | None) -> ray.data.Dataset:
    """Image files as `bytes`, each with a `path`: files of folders, or a column of Parquet beside one called `path`."""
    if column is None:
        return ray.data.read_binary_files(
            sources, include_paths=True, file_extensions=["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp"]
        )

    def named(batch: pa.Table) -> pa.Table:
        values = batch[column].combine_chunks()
        names = batch["path"] if "path" in batch.column_names else pa.nulls(len(batch), pa.string())
        if pa.types.is_struct(values.type):  # as Hugging Face datasets keep images
            values, names = values.field("bytes"), values.field("path")
        return pa.table({"bytes": values, "path": names})

    return ray.data.read_parquet(sources).map_batches(named, batch_format="pyarrow")


def main() -> None:
    """Run the job that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="folders of pictures, or Parquet files")
    parser.add_argument("--out", required=True, help="folder for the Parquet files that are written")
    parser.add_argument("--column", help="sources are Parquet files with image files in this column")
    parser.add_argument("--model", default="dyhead_atss_resnet10t.bccd", help="as dyzoo.load takes it")
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--size", type=int, help="shortest edge in pixels; as trained if it is left out")
    parser.add_argument("--actors", type=int, default=1, help="detectors at work at a time")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each, such as 1 or 0.5")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures that an actor gets at a time")
    options = parser.parse_args()
    found = read([str(Path(each).absolute()) for each in options.sources], options.column).map_batches(
        Detect,
        fn_constructor_args=(options.model, options.threshold, options.size, options.gpus),
        batch_size=options.batch_size,
        batch_format="pyarrow",
        num_gpus=options.gpus,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
    )
    found.write_parquet(str(Path(options.out).absolute()))


if __name__ == "__main__":
    main()
