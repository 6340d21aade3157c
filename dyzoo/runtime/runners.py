"""Runtimes beside PyTorch, all asked in one way: arrays by name in, arrays by name out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dyzoo.runtime.sessions import open_session

Arrays = dict[str, np.ndarray]


class Runner(Protocol):
    """A network that a runtime has loaded; several threads may run it at once.

    Attributes:
        runtime: what runs it, for people.
        inputs, outputs: names, in the file's order.
    """

    runtime: str
    inputs: Sequence[str]
    outputs: Sequence[str]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All outputs by name; raises whatever the runtime does."""


class OnnxRunner:
    """An ONNX file, or its content, in onnxruntime on the CPU."""

    runtime = "onnxruntime"

    def __init__(self, model: Path | bytes) -> None:
        self.session = open_session(model)
        self.inputs: Sequence[str] = [value.name for value in self.session.get_inputs()]
        self.outputs: Sequence[str] = [value.name for value in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """See `Runner`."""
        return dict(zip(self.outputs, self.session.run(self.outputs, dict(inputs)), strict=True))


class OpenVinoRunner:
    """A model of OpenVINO on the CPU, in float32 whatever else the processor has, with as many threads as torch has.

    Args:
        xml: content of the .xml file of an intermediate representation.
        weights: content of the .bin file.
    """

    runtime = "OpenVINO"

    def __init__(self, xml: bytes, weights: bytes) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        self._weights = weights  # which the model has a view of
        self._compiled = core.compile_model(core.read_model(xml, weights), "CPU", settings)
        self.inputs: Sequence[str] = [value.get_any_name() for value in self._compiled.inputs]
        self.outputs: Sequence[str] = [value.get_any_name() for value in self._compiled.outputs]
        self._idle: list[Any] = []  # requests, each of which is one thread's while it runs

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """See `Runner`."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        answers = request.infer(dict(inputs), share_outputs=False)
        self._idle.append(request)
        return {name: answers[place] for place, name in enumerate(self.outputs)}
