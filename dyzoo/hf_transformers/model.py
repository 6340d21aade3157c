"""A detector as a model of transformers: the same layers under the same names, so one file of weights serves both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from huggingface_hub import CommitInfo
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from dyzoo.errors import CheckpointError
from dyzoo.hf_transformers.configuration import DyzooConfig
from dyzoo.hf_transformers.outputs import DyzooObjectDetectionOutput, to_outputs, to_targets
from dyzoo.hub.building import SPARE_PARAMETERS, TooLargeError, at_most
from dyzoo.hub.ids import WEIGHTS_NAME
from dyzoo.model.detector import Detector
from dyzoo.model.graphs import forget, raw_maps
from dyzoo.model.heads.base import ImageSizes
from dyzoo.model.network import Network
from dyzoo.model.sizes import padded_size
from dyzoo.model.targets import check_targets

_OF_THE_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class DyzooForObjectDetection(Network, PreTrainedModel):
    """A DyHead detector that transformers loads, trains and saves.

    Args:
        config: everything but the weights.
        detector: the layers to share in place of new ones; see `from_detector`.

    Raises:
        CheckpointError: a setting is out of its range.
        ValueError: the configuration names no classes.
    """

    if TYPE_CHECKING:  # transformers sets them
        config: DyzooConfig

    config_class = DyzooConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    _no_split_modules = ["Backbone", "FPN", "DyHead"]  # noqa: RUF012 (transformers' form)

    def __init__(self, config: DyzooConfig, detector: Detector | None = None) -> None:
        super().__init__(config)
        # `pipeline` looks for the code of these in a folder or repository, and a model is neither
        config.custom_pipelines = {}
        self.share_layers(Detector(config.detector) if detector is None else detector)
        settings = config.detector
        self.places = settings.head.max_detections
        self.size_divisor = settings.preprocess.size_divisor
        self.post_init()  # type: ignore[operator]

    @classmethod
    def from_detector(cls, detector: Detector) -> DyzooForObjectDetection:
        """The model of a detector, from `dyzoo.load` or `create_model`; both have the same layers from then on."""
        model = cls(DyzooConfig(**detector.config.to_dict()), detector)
        return model.train(detector.training)

    @property
    def detector(self) -> Detector:
        """A detector of these layers, for `predict`, `export` and the like; the weights are there once.

        Another one each time: keep it to predict often, as CUDA graphs are a detector's own.
        """
        return Detector.sharing(self, self.config.detector)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        labels: Sequence[Mapping[str, Tensor]] | None = None,
        return_dict: bool | None = None,
    ) -> DyzooObjectDetectionOutput | tuple[Any, ...]:
        """Losses and detections of a batch, as the image processor makes it.

        Args:
            pixel_values: (N, 3, H, W), normalised; padded here where H and W are no multiples of the detector's.
            pixel_mask: (N, H, W), 1 on the picture, which begins at the top left, and 0 on the padding; None: there is
                none.
            labels: for each picture "boxes" (M, 4), centre and size in shares of the picture, and "class_labels" (M,);
                of the others of `DyzooImageProcessor.preprocess` only "iscrowd" is read: crowd regions are not learnt.
            return_dict: False gives a tuple.

        Returns:
            The losses that dyzoo's own training minimises, where labels are given; the detections, unless the model is
            in training mode and labels are given.

        Raises:
            ValueError: shapes do not fit each other, or a label or box cannot be learnt; the first is named.
        """
        image_sizes = _image_sizes(pixel_values, pixel_mask)
        batch = self._padded(pixel_values)
        if self.training:
            forget(self)  # training takes the memory that graphs of an evaluation have
        learns = labels is not None
        is_replayed = not (self.training or learns)
        raw = raw_maps(self, batch) if is_replayed else self.forward_head(self.forward_features(batch))
        loss = losses = logits = pred_boxes = None
        if labels is not None:
            targets = to_targets(labels, image_sizes, batch.device)
            check_targets(targets, image_sizes, self.head.num_classes)
            losses = self.head.losses(raw, targets, image_sizes)  # type: ignore[arg-type]
            loss = torch.stack(list(losses.values())).sum()
        if not (self.training and learns):
            detected = self.head.decode(raw, image_sizes)
            logits, pred_boxes = to_outputs(detected, image_sizes, self.places, self.head.num_classes)
        outputs = DyzooObjectDetectionOutput(loss, losses, logits, pred_boxes)
        return outputs.to_tuple() if return_dict is False else outputs

    def _padded(self, pixel_values: Tensor) -> Tensor:
        (height, width), size = pixel_values.shape[-2:], [(pixel_values.shape[-2], pixel_values.shape[-1])]
        padded_height, padded_width = padded_size(size * len(pixel_values), self.size_divisor)
        # a replica of `nn.DataParallel` has no parameters to ask
        dtype = next((parameter.dtype for parameter in self.parameters()), pixel_values.dtype)
        batch = F.pad(pixel_values.to(dtype), (0, padded_width - width, 0, padded_height - height))
        return batch.contiguous(memory_format=torch.channels_last)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """As in transformers, from safetensors alone.

        A layer whose shape is another (`id2label=...` with `ignore_mismatched_sizes=True`) begins as dyzoo's layers do.

        Raises:
            CheckpointError: the weights are not those of the configuration: one is missing or unknown, or the
                configuration describes a far larger detector.
            OSError: the repository or a file is not there.
        """
        options = {"use_safetensors": True, **options}
        with_info = options.pop("output_loading_info", False)
        try:
            with at_most(_most_parameters(pretrained_model_name_or_path, options)):
                model, info = super().from_pretrained(
                    pretrained_model_name_or_path, *arguments, output_loading_info=True, **options
                )
        except TooLargeError as error:
            raise CheckpointError(f"{pretrained_model_name_or_path} describes no detector: {error}") from None
        new = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
        for keys, what in ((set(info["missing_keys"]) - new, "lacks"), (info["unexpected_keys"], "has the unknown")):
            if keys:
                raise CheckpointError(
                    f"{WEIGHTS_NAME} of {pretrained_model_name_or_path} {what} {min(keys)!r:.200} and {len(keys) - 1} "
                    "more: the weights are not of its config.json"
                )
        model._begin(new)
        return (model, info) if with_info else model

    @torch.no_grad()
    def _begin(self, names: set[str]) -> None:
        """Fill those weights, and what is computed and not stored, as a new detector has them."""
        stored = self.state_dict()
        computed = {name for name, _ in self.named_buffers()} - stored.keys()
        if not names and not computed:
            return
        new = Detector(self.config.detector)
        begun = {**new.state_dict(), **dict(new.named_buffers())}
        own = {**stored, **dict(self.named_buffers())}
        for name in names | computed:
            own[name].copy_(begun[name])

    def save_pretrained(self, save_directory: Any, *arguments: Any, **options: Any) -> None:
        """As in transformers, but always one file of safetensors, as dyzoo reads it.

        Raises:
            ValueError: other files are asked for.
        """
        for name, usual in (("max_shard_size", None), ("variant", None), ("safe_serialization", True)):
            if options.get(name, usual) != usual:
                raise ValueError(
                    f"{name} is {options[name]!r}: the weights of a detector are one {WEIGHTS_NAME}, leave it out"
                )
        super().save_pretrained(save_directory, *arguments, **options)  # type: ignore[misc]

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """As `dyzoo.Detector.push_to_hub`: one commit with weights, configuration, dyzoo's card and what transformers
        needs."""
        return self.detector.push_to_hub(repo_id, **options)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: each layer has begun as its own constructor begins it."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Change every weight, as `to`, `half` and the like do."""
        forget(self)  # a model that moves leaves no memory behind
        return super()._apply(fn, recurse)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModelForObjectDetection") -> None:
        """Do nothing: `config.json` names where the code is, and nobody's copy of it is to be saved beside."""


def _most_parameters(name: Any, options: Mapping[str, Any]) -> int:
    """Parameters that weights could fill, whatever their type, built and then filled."""
    if options.get("state_dict") is not None:
        size = sum(weight.numel() for weight in options["state_dict"].values())
    else:
        of_the_hub = {key: options[key] for key in _OF_THE_HUB if key in options}
        variant = f".{options['variant']}" if options.get("variant") else ""
        file_name = WEIGHTS_NAME.replace(".", f"{variant}.")
        path = cached_file(name, file_name, _raise_exceptions_for_missing_entries=False, **of_the_hub)
        size = 0 if path is None else Path(path).stat().st_size
    return 2 * size + SPARE_PARAMETERS


def _image_sizes(pixel_values: Tensor, pixel_mask: Tensor | None) -> ImageSizes:
    """(H, W) of each picture without its padding. Raises `ValueError`."""
    shape = tuple(pixel_values.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape or not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values are {shape} of {pixel_values.dtype}, expected (N, 3, H, W) of floating point, as the image "
            "processor makes them"
        )
    number, _, height, width = shape
    if pixel_mask is None:
        return [(height, width)] * number
    if tuple(pixel_mask.shape) != (number, height, width):
        raise ValueError(f"pixel_mask is {tuple(pixel_mask.shape)}, expected {(number, height, width)}")
    mask = pixel_mask != 0
    heights, widths, areas = mask.any(2).sum(1), mask.any(1).sum(1), mask.sum((1, 2))
    sizes = torch.stack([heights, widths, areas, mask[:, 0, 0].long()], dim=1).tolist()
    for index, (rows, columns, area, begins) in enumerate(sizes):
        if not begins or rows * columns != area:
            raise ValueError(f"pixel_mask {index} is no picture at the top left with padding at its right and bottom")
    return [(rows, columns) for rows, columns, *_ in sizes]
