"""A pool of onnxruntime's threads that spins beside what is measured in the same process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from ..options import cores
from .onnx_graphs import OPSET, check_onnx

POOL_PAUSE_SECONDS = 0.005
"""Between runs of the pool: its threads spin for longer after each before they sleep."""
POOL_SIDE = 128


def spinning_pool() -> Callable[[], AbstractContextManager[None]]:
    """A pool of one thread on each core; inside of what it gives, it waits for work as it does by default: spinning.

    Raises:
        Unavailable: onnxruntime or onnx is not installed.
    """
    check_onnx()
    import onnxruntime
    from onnx import TensorProto, helper

    shape = [POOL_SIDE, POOL_SIDE]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "product", values[:1], values[1:])
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    product = {"x": np.ones(shape, np.float32)}

    @contextmanager
    def awake() -> Iterator[None]:
        stopped = threading.Event()

        def keep_awake() -> None:
            while not stopped.wait(POOL_PAUSE_SECONDS):
                session.run(None, product)

        session.run(None, product)
        thread = threading.Thread(target=keep_awake, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    return awake
