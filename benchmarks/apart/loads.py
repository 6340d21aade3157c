"""What else a CPU does while it is measured: busy processes beside, or a spinning pool of threads in the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..machine import cores
from .onnx_graphs import check_onnx

# It ends by itself when the process that has started it does, however that ends.
_NEIGHBOUR = """
import os, sys
parent = int(sys.argv[1])
print(flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""
POOL_PAUSE_SECONDS = 0.005
"""Between runs of the pool: its threads spin for longer after each before they sleep."""
POOL_SIDE = 128


@contextmanager
def load(name: str, threads: int | None = None) -> Iterator[list[int]]:
    """Inside, the load of that name goes on; gives the ids of the processes that make it.

    Args:
        threads: busy processes; None for one on each core. They have this process's priority.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        if name == "full":
            command = [sys.executable, "-S", "-E", "-c", _NEIGHBOUR, str(os.getpid())]
            for _ in range(threads or cores()):
                processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                    )
                )
            for process in processes:
                assert process.stdout is not None
                process.stdout.readline()  # it runs now
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


@contextmanager
def spinning_pool() -> Iterator[None]:
    """Inside, onnxruntime's pool, one thread on each core, waits for work as it does by default: spinning.

    Raises:
        Unavailable: onnxruntime or onnx is not installed.
    """
    check_onnx()
    import onnxruntime
    from onnx import TensorProto, helper

    shape = [POOL_SIDE, POOL_SIDE]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "product", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    stopped = threading.Event()
    product = {"x": np.ones(shape, np.float32)}

    def keep_awake() -> None:
        while not stopped.wait(POOL_PAUSE_SECONDS):
            session.run(None, product)

    thread = threading.Thread(target=keep_awake, daemon=True)
    session.run(None, product)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
