"""Train torchvision's FCOS or RetinaNet with DyHead between the feature pyramid and the head.

    pip install dyzoo
    python torchvision_neck.py --detector fcos --steps 20

The backbone is a ResNet-18 without weights and the pictures are made up, so that it runs anywhere; put your own
backbone into `build`, and give your own pictures to `train`. `--onnx FILE` writes the trained network as ONNX.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import dyzoo

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def build(detector: str, num_classes: int, channels: int = 256, blocks: int = 2, **settings: Any) -> FCOS | RetinaNet:
    """A detector of torchvision's with `blocks` DyHead blocks over P3 to P7.

    Args:
        detector: "fcos", whose two towers of four convolutions DyHead replaces, or "retinanet", which keeps them, as in
            the code that the paper's authors published.
        num_classes: for RetinaNet as torchvision counts them, label 0 being a class too.
        channels: of the pyramid; torchvision makes 256 of them.
        settings: of torchvision's detector, such as `min_size`.
    """
    pyramid = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    # a pyramid of 256 channels in, `channels` out: OrderedDict -> OrderedDict, as torchvision's heads expect it
    backbone = nn.Sequential(OrderedDict(pyramid=pyramid, dyhead=dyzoo.DyHead(channels, blocks, pyramid.out_channels)))
    backbone.out_channels = channels  # type: ignore[assignment] # torchvision asks for it
    if detector == "retinanet":
        return RetinaNet(backbone, num_classes, **settings)
    return FCOS(backbone, num_classes, head=FCOSHead(channels, 1, num_classes, num_convs=0), **settings)


def made_up(batches: int, size_px: int = 128) -> list[Batch]:
    """Batches of two pictures with a light or a dark square each, classes 1 and 0."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(batches):
        images, targets = [], []
        for label in (0, 1):
            side = int(torch.randint(size_px // 4, size_px // 2, (), generator=generator))
            x, y = torch.randint(0, size_px - side, (2,), generator=generator).tolist()
            image = 0.5 + 0.1 * torch.randn(3, size_px, size_px, generator=generator)
            image[:, y : y + side, x : x + side] = float(label)
            images.append(image.clamp(0, 1))
            boxes = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
            targets.append({"boxes": boxes, "labels": torch.tensor([label])})
        made.append((images, targets))
    return made


def train(model: nn.Module, batches: Iterable[Batch], learning_rate: float = 1e-4) -> list[float]:
    """One step for each batch; the losses."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
    losses = []
    for images, targets in batches:
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


class RawMaps(nn.Module):
    """The network as it is exported: the head's predictions, by name, for pictures that are normalised and padded."""

    def __init__(self, model: FCOS | RetinaNet) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> "cls_logits" (N, anchors, K), "bbox_regression" (N, anchors, 4) and so on."""
        return self.head(list(self.backbone(batch).values()))


def export(model: FCOS | RetinaNet, path: Path, size_px: tuple[int, int] = (128, 160)) -> float:
    """Write the network as ONNX and compare it with PyTorch: the largest difference, of the largest value."""
    import onnxruntime

    from dyzoo.export.necks import exportable

    network, batch = RawMaps(model).eval(), torch.randn(2, 3, *size_px, generator=torch.Generator().manual_seed(1))
    plain = exportable(network)  # a copy in operators that the exporter knows
    torch.onnx.export(plain, (batch,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    with torch.no_grad():
        wanted = network(batch).values()
    pairs = [(torch.from_numpy(got), want) for got, want in zip(answers, wanted, strict=True)]
    return max(float((got - want).abs().max() / want.abs().max()) for got, want in pairs)


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", choices=["fcos", "retinanet"], default="fcos")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--channels", type=int, default=256, help="a multiple of 16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--onnx", type=Path, help="file to write the trained network to")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = build(options.detector, 2, options.channels, options.blocks, min_size=128, max_size=256)
    losses = train(model, made_up(options.steps))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps")
    if options.onnx:
        print(f"{options.onnx}: off by {export(model, options.onnx):.1e} of the largest value")


if __name__ == "__main__":
    main()
