"""`dyzoo convert`: make a detector of another code base's checkpoint."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated, Literal

import typer

from dyzoo.cli.options import parse_names
from dyzoo.cli.terminal import progress_bar, say
from dyzoo.errors import CheckpointError


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint: .pth, .pt, .bin, .pkl, .safetensors.")],
    source: Annotated[
        str, typer.Option("--from", metavar="NAME", help="Its architecture and code base, one of those above.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the detector.")],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE|a,b,c",
            help="Class names of a fine-tuned checkpoint, or GLIP's, any: a file with one on each line, or a list.",
            show_default="its own, or COCO's",
        ),
    ] = None,
    dtype: Annotated[
        Literal["float16", "bfloat16"] | None,
        typer.Option("--dtype", help="Store weights in half the bytes.", show_default="float32"),
    ] = None,
) -> None:
    """Convert a checkpoint of another code base.

    The detector gives the same answers. Every key of the checkpoint is accounted for; no code in the file is run.
    These can be converted, from microsoft/DynamicHead and mmdetection:

    \b
      official_atss_r50          dyhead_r50_atss_fpn_1x
      official_atss_swin_t       dyhead_swint_atss_fpn_2x_ms
      official_faster_rcnn_r50   dyhead_r50_rcnn_fpn_1x
      official_retinanet_r50     dyhead_r50_retina_fpn_1x
      mmdet_atss_r50             atss_r50_fpn_dyhead_1x_coco
      mmdet_atss_r50_caffe       atss_r50-caffe_fpn_dyhead_1x_coco
      mmdet_atss_swin_l          atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco
      mmdet_glip_t_a             glip_atss_swin-t_a_fpn_dyhead_*: any names

    \b
    Examples:
      dyzoo convert dyhead_r50_atss_fpn_1x.pth --from official_atss_r50 --out atss
      dyzoo predict photos/ --model atss
      dyzoo convert my.pth --from mmdet_atss_r50 --labels cat,dog --out mine
      dyzoo convert glip.pth --from mmdet_glip_t_a --labels "cell,dust" --out seen
    """
    import torch

    from dyzoo.zoo.origins import convert_file

    _check_folder(out)
    names = None if labels is None else parse_names(labels, "--labels")
    with progress_bar() as bar:
        task = bar.add_task("converting", total=2)
        conversion = convert_file(file, source, names)
        bar.update(task, advance=1, description="writing")
        detector = conversion.detector
        detector.save_pretrained(out, None if dtype is None else getattr(torch, dtype))
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    ignored = len(conversion.ignored)
    say(
        f"{source}: {conversion.num_keys - ignored} keys read, {ignored} ignored, {parameters / 1e6:.2f} M parameters, "
        f"{len(detector.labels)} classes -> {out}"
    )
    say(f"use it: dyzoo predict IMAGE --model {out}")


def _check_folder(out: Path) -> None:
    """Refuse to write over anything but the result of an earlier conversion."""
    from dyzoo.checkpoints.provenance import CONVERTED
    from dyzoo.hub.cards import CARD_NAME

    if not out.exists():
        return
    if not out.is_dir():
        raise OSError(errno.ENOTDIR, "is a file, expected a folder to write to", str(out))
    card = out / CARD_NAME
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if CONVERTED not in text and any(out.iterdir()):
        raise CheckpointError(f"{out} holds something else than a converted detector: name a new folder with --out")
