"""A detector that is made of another one, and finds the same sooner on a CPU."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from dyzoo.config import DetectorConfig
from dyzoo.errors import SettingError, first_line
from dyzoo.model.heads.base import Detected, Limits, Raw
from dyzoo.model.mode import evaluating
from dyzoo.model.network import Network
from dyzoo.model.optimization.fusing import fold_norms, fuse_activations, traced
from dyzoo.model.optimization.packing import can_pack, pack_layers
from dyzoo.model.prediction import PredictingModel
from dyzoo.model.preprocess import batch_images

TOLERANCE = 1e-4
"""The largest difference of a raw map to the plain detector's, in shares of the map's largest value."""

TRIAL_SIZE = (2, 3, 96, 160)  # images of two sides, and more than one, as a layer may treat one as any number

log = logging.getLogger("dyzoo.model")


class OptimizedDetector(Network, PredictingModel):
    """A detector for inference on a CPU: it predicts, is evaluated and is called as the one that it is made of.

    In a copy of that one, norms are folded into convolutions and activations fused into the layers before them, where
    the backbone can be traced, and weights are packed for oneDNN, where PyTorch has the operators. The copy's raw maps
    are compared with the detector's on a made-up picture; what does not pass is left out.

    Args:
        config: what the network is made by.
        network: a detector's layers, which stay as they are and are not kept.

    Raises:
        SettingError: its weights are not float32, or not on the CPU; or it does not do what its layers do.
    """

    def __init__(self, config: DetectorConfig, network: Network) -> None:
        super().__init__(config)
        weight = next(network.parameters())
        if (weight.device.type, weight.dtype) != ("cpu", torch.float32):
            raise SettingError(
                f"the weights are {weight.dtype} on {weight.device}, expected torch.float32 on the CPU: elsewhere a "
                "detector is fast as it is"
            )
        batch = torch.randn(TRIAL_SIZE, generator=torch.Generator().manual_seed(0))
        with evaluating(network):  # so are its copies
            expected = _raw(network, batch)
            for steps in ((_fuse, _pack), (_pack,), ()):  # from the fastest on to the plain copy
                self.share_layers(copy.deepcopy(network))
                self.requires_grad_(False)
                try:
                    for step in steps:
                        step(self)
                    if _agrees(_raw(self, batch), expected):
                        break
                    reason = "other raw maps come out"
                except Exception as error:  # each backbone has a way of its own to be no graph
                    reason = first_line(error)
                log.debug(
                    "%s is not optimised by %s: %s",
                    config.backbone.name,
                    ", then ".join(step.__name__ for step in steps),
                    reason,
                )
            else:
                raise SettingError(f"a copy of the detector's layers does not do what the detector does: {reason}")
        self.eval()

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """float32."""
        return torch.float32

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor], targets: Any = None, *, limits: Limits | None = None) -> list[Detected]:
        """Detections, as of a `Detector` in evaluation mode."""
        if targets is not None:
            self._refuse()
        batch, image_sizes = batch_images(images, self.config.preprocess, self.device)
        return self.head.decode(_raw(self, batch), image_sizes, limits)

    def train(self, mode: bool = True) -> OptimizedDetector:
        """Refuse to be in any mode but that of evaluation."""
        if mode:
            self._refuse()
        return super().train(mode)

    def _refuse(self, *args: Any, **options: Any) -> NoReturn:
        raise SettingError(
            "an optimised detector does no more than detect: train, move, copy, save, explain or export the one that "
            "it was made of, and optimise that again"
        )

    optimize = state_dict = load_state_dict = export = explain = push_to_hub = __reduce_ex__ = _apply = _refuse  # type: ignore[assignment]


@torch.no_grad()
def _raw(network: Network, batch: Tensor) -> Raw:
    return network.forward_head(network.forward_features(batch))


def _fuse(network: Network) -> None:
    """Fuse what the backbone's graph shows to stand one behind the other."""
    graph = traced(network.backbone.model)
    fold_norms(graph)
    if can_pack():
        fuse_activations(graph)
    network.backbone.model = graph


def _pack(network: Network) -> None:
    """Pack the layers outside of the DyHead blocks, which pack their own."""
    if can_pack():
        for part in (network.backbone, network.fpn, network.dyhead.projections, network.head):
            if part is not None:
                pack_layers(part)


def _agrees(found: Raw, expected: Raw) -> bool:
    """Whether every raw map is within `TOLERANCE`."""
    return all(
        bool((one - other).abs().max() <= TOLERANCE * other.abs().max())
        for kind in expected
        for one, other in zip(found[kind], expected[kind], strict=True)
    )
