"""A `dyzoo train` that learns nothing: it notes how it was called and leaves the files of a complete run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_result(folder: Path, ap: float, blocks: int, attentions: str, seed: int, **changes: Any) -> None:
    """The files of a complete run that are read; `changes` are settings of `train.json`."""
    on = attentions.split(",")
    dyhead = {"num_blocks": blocks, "form": "pyramid", **{name: name in on for name in ("scale", "spatial", "task")}}
    train = {
        **{"train_split": "train", "val_split": "val", "seed": seed, "epochs": 2, "batch_size": 4, "size_px": 64},
        **{"backbone_weights": None, "pretrained_backbone": False, **changes},
    }
    metrics = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), ap)
    files: Mapping[str, Any] = {
        "train.json": train,
        "run.json": {
            "data": {name: {"sha256": name * 16, "images": 6} for name in ("train", "val")},
            "device": "cpu",
            "versions": {"dyzoo": "0", "torch": "2"},
        },
        "best/config.json": {"architecture": "small", "dyhead": dyhead, "backbone": {"name": "resnet10t"}},
        "evaluation/metrics.json": {"metrics": metrics, "cost": {"parameters": 1000 + blocks}},
    }
    for name, values in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values))


def main() -> None:
    options = dict(option.removeprefix("--").split("=", 1) for option in sys.argv[1:] if "=" in option)
    folder, seed = Path(options["out"]), int(options["seed"])
    calls = folder.parents[1] / "calls.txt"
    with calls.open("a") as file:
        how = "resume" if "--resume" in sys.argv else "new"
        file.write(f"{folder.parent.name} {seed} {how} {os.environ['OMP_NUM_THREADS']}\n")
    print("as wanted")
    if (folder.parents[1] / f"fail-{folder.parent.name}").exists():
        print("error: it went wrong")
        raise SystemExit(1)
    blocks = int(options["blocks"])
    write_result(folder, 0.1 * blocks + 0.01 * seed, blocks, options["attentions"], seed)


if __name__ == "__main__":
    main()
