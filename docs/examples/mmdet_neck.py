"""`dyzoo.DyHead` as a neck for mmdetection, and for all that builds on mmengine: `FusedDyHead` in a config.

    pip install dyzoo        # and mmdetection, as its own documentation says

Put this file where Python finds it, and into a config, here that of an ATSS on ResNet-50:

    custom_imports = dict(imports=["mmdet_neck"], allow_failed_imports=False)
    model = dict(
        neck=[
            dict(type="FPN", in_channels=[256, 512, 1024, 2048], out_channels=256, start_level=1, num_outs=5,
                 add_extra_convs="on_output"),
            dict(type="FusedDyHead", channels=256, blocks=6),
        ],
        bbox_head=dict(stacked_convs=0),
    )

It needs no operator of mmcv. Settings are those of `dyzoo.DyHead`; the weights of mmdetection's own `DyHead` need
`offset_mode="flat", conv_bias=False`, and `published` makes such a neck of a checkpoint of a whole detector.
"""

from __future__ import annotations

from pathlib import Path

from mmengine.registry import MODELS

import dyzoo

# mmengine's own registry, which those of mmdetection, mmrotate and the others ask for what they do not have
MODELS.register_module(name="FusedDyHead", module=dyzoo.DyHead)


def published(path: str | Path, design: str = "mmdet_atss_r50") -> dyzoo.DyHead:
    """The neck of a detector that mmdetection has published, with its weights.

    Args:
        path: the checkpoint, a `.pth` file.
        design: its design, one of the `mmdet_*` that `dyzoo list` names.
    """
    return dyzoo.convert_checkpoint(path, design).dyhead
