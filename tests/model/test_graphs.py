"""When predictions replay CUDA graphs, when they do not, and that nobody can tell: on graphs that are made up."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from dyzoo.model.detector import Detector
from dyzoo.model.graphs import raw_maps, replaying
from tests.model.made_up_cuda import SEEN_OFTEN, MadeUpCuda, look, look_often, make_up_cuda, picture
from tests.model.narrow_detectors import eager_detector

pytestmark = pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> MadeUpCuda:
    return make_up_cuda(monkeypatch)


@pytest.fixture
def detector() -> Detector:
    return eager_detector()


def test_a_size_seen_often_is_captured_once_and_answers_stay_the_same(cuda: MadeUpCuda, detector: Detector) -> None:
    images = [picture(seed=seed) for seed in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYZOO_CUDA_GRAPHS", "0")
        expected = [look(detector, image) for image in images]
    assert expected[0] != expected[1]
    for runs in range(1, 3):
        assert look(detector, images[0]) == expected[0]
        assert cuda.captures == cuda.replays == 0, runs
    for seed in (0, 1, 2, 1, 0):
        assert look(detector, images[seed]) == expected[seed]
    assert (cuda.captures, cuda.replays) == (1, 5)
    assert cuda.modes == {"thread_local"}


def test_batches_precisions_and_settings_of_pytorch_have_graphs_of_their_own(
    cuda: MadeUpCuda, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture()
    expected = look(detector, image, precision="bf16")
    look_often(detector, image)
    look_often(detector, image, precision="bf16")
    look_often(detector, image, flips=["horizontal"])
    assert cuda.captures == 2
    assert look(detector, image, precision="bf16") == expected
    for _ in range(SEEN_OFTEN):
        detector.predict([image, image], size="native", batch_size=2)
    assert cuda.captures == 3
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    look_often(detector, image)
    assert cuda.captures == 4


def test_autocast_around_it_leaves_no_cast_weight_outside(cuda: MadeUpCuda, detector: Detector) -> None:
    """Those of autocast's cache go when it is left, so a graph casts weights itself."""
    image, other = picture(), copy.deepcopy(detector)
    look_often(other, image, precision="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        look_often(detector, image)
        assert look(detector, image) == look(other, image, precision="bf16")
    alone, inside = ([str(step[0]) for step in graph.notes.steps] for graph in cuda.graphs)
    assert "aten.to.dtype" in alone
    assert alone == inside


def test_the_caller_s_maps_are_not_the_graph_s(cuda: MadeUpCuda, detector: Detector) -> None:
    first, second = torch.randn(1, 3, 64, 96), torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for _ in range(SEEN_OFTEN):
            kept = raw_maps(detector, first)
        as_they_were = {kind: [level.clone() for level in levels] for kind, levels in kept.items()}
        for level in raw_maps(detector, second)["cls"]:
            level.zero_()
        again = raw_maps(detector, first)
    assert cuda.replays == 3
    for kind, levels in as_they_were.items():
        torch.testing.assert_close(kept[kind], levels, rtol=0, atol=0)
        torch.testing.assert_close(again[kind], levels, rtol=0, atol=0)
    # no graph of a pool begins before the answers of the one before are copied
    assert cuda.order == ["wait for answers", "answers are copied"] * 3


def written_in_place(detector: Detector) -> None:
    with torch.no_grad():
        detector.head.cls.bias.add_(0.5)


def step_of_an_optimizer(detector: Detector) -> None:
    weight = detector.dyhead.blocks[0].conv_weight
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.1).step()
    weight.grad = None


def loaded_by_assignment(detector: Detector) -> None:
    detector.load_state_dict({name: tensor * 1.1 for name, tensor in detector.state_dict().items()}, assign=True)


def data_exchanged(detector: Detector) -> None:
    detector.head.cls.bias.data = detector.head.cls.bias.data + 0.5


def another_module(detector: Detector) -> None:
    detector.head.cls = copy.deepcopy(detector.head.cls)
    nn.init.zeros_(detector.head.cls.bias)


def another_attribute(detector: Detector) -> None:
    _a_norm(detector).eps = 1.0


def a_parametrisation(detector: Detector) -> None:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    parametrize.register_parametrization(detector.head.cls, "weight", Halved())


def a_buffer(detector: Detector) -> None:
    _a_norm(detector).running_mean = torch.ones_like(_a_norm(detector).running_mean)


def _a_norm(detector: Detector) -> Any:
    return next(module for module in detector.modules() if isinstance(module, nn.BatchNorm2d))


CHANGES = [
    written_in_place,
    step_of_an_optimizer,
    loaded_by_assignment,
    data_exchanged,
    another_module,
    another_attribute,
    a_parametrisation,
    a_buffer,
    Detector.bfloat16,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_answers_as_it_is(
    change: Callable[[Detector], Any], cuda: MadeUpCuda, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture()
    look_often(detector, image)
    before = look(detector, image)
    change(detector)
    found = [look(detector, image) for _ in range(SEEN_OFTEN)]
    assert (cuda.captures, cuda.replays) == (2, 3)
    monkeypatch.setenv("DYZOO_CUDA_GRAPHS", "0")
    assert look(detector, image) != before
    assert found == [look(detector, image)] * SEEN_OFTEN


def test_the_switch(cuda: MadeUpCuda, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYZOO_CUDA_GRAPHS", "0")
    look_often(detector, picture())
    assert cuda.captures == 0
    monkeypatch.setenv("DYZOO_CUDA_GRAPHS", "1")
    look_often(detector, picture())
    assert cuda.captures == 1
    monkeypatch.setenv("DYZOO_CUDA_GRAPHS", "0")
    look(detector, picture())
    assert cuda.replays == 1


def test_hooks_are_called_and_gone_are_no_hindrance(cuda: MadeUpCuda, detector: Detector) -> None:
    image, called = picture(), []
    look_often(detector, image)
    hook = detector.fpn.register_forward_hook(lambda *given: called.append(given))
    look_often(detector, image)
    assert (len(called), cuda.captures, cuda.replays) == (SEEN_OFTEN, 1, 1)
    hook.remove()
    look_often(detector, image)
    assert (len(called), cuda.captures, cuda.replays) == (SEEN_OFTEN, 2, 2)


def test_a_forward_put_in_the_place_of_another_is_called(cuda: MadeUpCuda, detector: Detector) -> None:
    norm, called = _a_norm(detector), []
    norm.forward = norm.forward  # a method of its own, as some of timm's modules choose one
    look_often(detector, picture())
    assert cuda.replays == 1
    norm.forward = lambda maps: called.append(maps) or type(norm).forward(norm, maps)
    look_often(detector, picture())
    assert (len(called), cuda.replays) == (SEEN_OFTEN, 1)


def test_whoever_watches_sees_every_operator(cuda: MadeUpCuda, detector: Detector) -> None:
    image, called = picture(), []
    look_often(detector, image)
    with FlopCounterMode(display=False) as counter:
        look(detector, image)
    assert counter.get_total_flops() > 1e6
    with nn.modules.module.register_module_forward_hook(lambda *given: called.append(given)):
        look(detector, image)
    assert len(called) > 20
    detector.forward_features = lambda batch: called.clear() or Detector.forward_features(detector, batch)  # type: ignore[method-assign, func-returns-value]
    look(detector, image)
    assert (called, cuda.replays) == ([], 1)
    del detector.forward_features
    with torch.device("cpu"):  # a default device watches nothing
        look(detector, image)
    assert cuda.replays == 2


def test_where_gradients_are_kept_there_is_no_graph(cuda: MadeUpCuda, detector: Detector) -> None:
    for _ in range(SEEN_OFTEN):
        found = raw_maps(detector, torch.zeros(1, 3, 64, 96))
    assert all(level.requires_grad for level in found["cls"])
    with torch.no_grad():
        for _ in range(SEEN_OFTEN):
            detector([picture()])
    assert cuda.captures == 0


def test_training_is_untouched_and_gets_the_memory(cuda: MadeUpCuda, detector: Detector) -> None:
    image = picture()
    look_often(detector, image)
    assert len(replaying._graphs[detector]._recordings) == 1
    detector.train()
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([0])}
    losses = [sum(detector([image], [target]).values()) for _ in range(SEEN_OFTEN)]
    assert all(loss.requires_grad for loss in losses)  # type: ignore[union-attr]
    assert (cuda.captures, cuda.replays) == (1, 1)
    assert len(replaying._graphs[detector]._recordings) == 0
    look_often(detector, image)  # in training mode, which predicting does not mind
    assert (detector.training, cuda.captures) == (True, 2)


def test_the_least_recently_used_graph_goes(
    cuda: MadeUpCuda, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "MOST_GRAPHS", 2)
    for width in (64, 96):
        look_often(detector, picture(width=width))
    look(detector, picture(width=64))
    look_often(detector, picture(width=128))
    assert (cuda.captures, len(replaying._graphs[detector]._recordings), cuda.pools) == (3, 2, 1)
    replays = cuda.replays
    look(detector, picture(width=64))
    look(detector, picture(width=96))
    assert cuda.replays == replays + 1


def test_sizes_that_take_turns_are_not_captured_again_and_again(
    cuda: MadeUpCuda, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "MOST_GRAPHS", 1)
    for _ in range(20):
        for width in (64, 96):
            look(detector, picture(width=width))
    assert cuda.captures <= 6  # of 40 runs: each takes longer to come than the one before


def test_one_off_sizes_cost_nothing_and_leave_little(
    cuda: MadeUpCuda, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "_MOST_COUNTED", 3)
    for height in range(32, 32 * 8, 32):
        look(detector, picture(height=height))
    assert cuda.captures == cuda.pools == 0
    assert len(replaying._graphs[detector]._runs) == 3


def test_graphs_that_would_fill_the_memory_are_given_up(cuda: MadeUpCuda, detector: Detector) -> None:
    image = picture()
    expected = look(detector, image)
    cuda.pool_bytes = 26
    for _ in range(12):
        assert look(detector, image) == expected
    assert 1 <= cuda.captures <= 3
    assert cuda.replays == 0
    assert not replaying._graphs[detector]._recordings


def test_an_allocator_that_does_not_tell_is_no_hindrance(
    cuda: MadeUpCuda, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "memory_snapshot", Mock(side_effect=RuntimeError("not meaningful")))
    look_often(detector, picture())
    assert cuda.replays == 1


def test_a_run_that_lacks_memory_gets_that_of_the_graphs(
    cuda: MadeUpCuda, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_often(detector, picture())
    run = Detector.forward_features

    def short_of_memory(self: Detector, batch: Tensor) -> list[Tensor]:
        if replaying._graphs[self]._recordings:
            raise torch.OutOfMemoryError("full")
        return run(self, batch)

    monkeypatch.setattr(Detector, "forward_features", short_of_memory)
    assert look(detector, picture(width=64))
    monkeypatch.setattr(Detector, "forward_features", Mock(side_effect=torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        look(detector, picture(width=64))


def test_several_threads_share_the_graphs(cuda: MadeUpCuda, detector: Detector) -> None:
    images = [picture(seed=seed, width=64 + 32 * (seed % 2)) for seed in range(4)]
    expected = [look(detector, image) for image in images]
    wrong: list[int] = []

    def predict(seed: int) -> None:
        wrong.extend(seed for _ in range(6) if look(detector, images[seed]) != expected[seed])

    threads = [threading.Thread(target=predict, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cuda.captures == 2
    assert cuda.replays >= 16


def test_copies_and_files_of_a_model_have_no_graphs(cuda: MadeUpCuda, detector: Detector) -> None:
    image = picture()
    look_often(detector, image)
    for other in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        assert other not in replaying._graphs
        assert look(other, image) == look(detector, image)
    assert cuda.captures == 1


def test_a_model_goes_with_its_graphs(cuda: MadeUpCuda) -> None:
    detector = eager_detector()
    look_often(detector, picture())
    gone = weakref.ref(replaying._graphs[detector])
    assert gone() is not None
    del detector
    gc.collect()
    assert gone() is None


def test_a_model_that_moves_leaves_no_graphs(cuda: MadeUpCuda, detector: Detector) -> None:
    look_often(detector, picture())
    detector.to(torch.device("cpu"))
    assert not replaying._graphs[detector]._recordings
    look_often(detector, picture())
    assert cuda.replays == 2


def test_a_compiler_traces_the_network_itself(cuda: MadeUpCuda, detector: Detector) -> None:
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda batch: raw_maps(detector, batch)["cls"], backend=keep, fullgraph=True)
    with torch.inference_mode():
        found = compiled(torch.zeros(1, 3, 64, 96))
        torch.testing.assert_close(found, raw_maps(detector, torch.zeros(1, 3, 64, 96))["cls"])
    assert (len(graphs), cuda.captures) == (1, 0)
