"""Processes that train together: each with half the batch, they have the losses and gradients of one with all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dyzoo.data import DetectionDataset, Sample
from dyzoo.data.loader import EpochBatches, Key
from dyzoo.distributed import (
    copy_from_main,
    gather_everywhere,
    gather_on_main,
    joint_normalizer,
    process_count,
    process_index,
    share_from_main,
    sum_over_processes,
)
from dyzoo.errors import DatasetError
from dyzoo.evaluation import Evaluation, evaluate, evaluate_together
from dyzoo.images.detections import Detections
from tests.model.heads.head_cases import CONFIGS, NOTHING, make_features, make_head, random_objects
from tests.process_groups import run_together

CPU = torch.device("cpu")

# --- losses -----------------------------------------------------------------------------------------------------------

CASES = {
    "objects everywhere": [random_objects(5, seed=1), random_objects(1, seed=2), random_objects(9, seed=3), NOTHING],
    "one process has none": [NOTHING, NOTHING, random_objects(4, seed=4), random_objects(2, seed=5)],
    "nobody has any": [NOTHING, NOTHING, NOTHING, NOTHING],
    "one in all": [NOTHING, NOTHING, NOTHING, {"boxes": torch.tensor([[3.0, 4, 9, 11]]), "labels": torch.tensor([1])}],
}
# All anchors and proposals are taken: what Faster R-CNN draws at random is then no longer random.
EVERYTHING = {
    "rpn_batch_size": 4000,
    "rpn_positive_fraction": 1.0,
    "roi_batch_size": 4000,
    "roi_positive_fraction": 1.0,
}


def losses_and_gradients(kind: str, targets: list[dict[str, Tensor]], images: slice) -> dict[str, Tensor]:
    """Losses and gradients of two steps, as each process sees them; training uses their means over processes."""
    head = make_head(kind, **(EVERYTHING if kind == "faster_rcnn" else {}))
    found: dict[str, Tensor] = {}
    for step in range(2):  # RetinaNet's normaliser is a running mean
        head.zero_grad()
        features = [level[images] for level in make_features(len(targets), seed=step)]
        losses = head.losses(head(features), targets[images], [(96, 120)] * len(features[0]))
        sum(losses.values(), torch.zeros(())).backward()
        found |= {f"{step} {name}": value.detach() for name, value in losses.items()}
        found |= {f"{step} {name}": p.grad.clone() for name, p in head.named_parameters() if p.grad is not None}
    return found


def half_of_each_case() -> dict[str, dict[str, Tensor]]:
    half = slice(2 * process_index(), 2 * process_index() + 2)
    return {
        f"{kind}, {name}": losses_and_gradients(kind, targets, half)
        for kind in CONFIGS
        for name, targets in CASES.items()
    }


def exchanges() -> dict[str, Any]:
    layer = torch.nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        layer.weight.fill_(process_index())
    copy_from_main(layer)
    return {
        "place": (process_index(), process_count()),
        "sum": sum_over_processes(torch.tensor([1.0, process_index()])),
        "enough": joint_normalizer(3 * process_index(), 1, CPU),
        "least": joint_normalizer(torch.tensor(0.0), 1, CPU),
        "shared": share_from_main({"from": process_index()}),
        "everywhere": gather_everywhere(str(process_index())),
        "on main": gather_on_main(process_index()),
        "weights": layer.weight.detach(),
    }


def both_jobs() -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    return half_of_each_case(), exchanges()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run_together(tmp_path_factory.mktemp("group"), 2, both_jobs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_two_halves_have_the_losses_and_gradients_of_the_whole(two_processes: list[Any], kind: str, case: str) -> None:
    whole = losses_and_gradients(kind, CASES[case], slice(None))
    first, second = (halves[f"{kind}, {case}"] for halves, _ in two_processes)
    names = {name for name, _ in make_head(kind).named_parameters()}
    # without a gradient for one of them, data parallel training would wait for ever
    assert {name.removeprefix("0 ") for name in first} >= names
    assert {name.removeprefix("1 ") for name in second} >= names
    assert any(value.ndim == 4 and value.any() for value in whole.values())
    for name, value in whole.items():
        mean = (first[name] + second[name]) / 2
        scale = value.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(mean / scale, value / scale, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_what_processes_exchange(two_processes: list[Any]) -> None:
    first, second = (found for _, found in two_processes)
    assert (first["place"], second["place"]) == ((0, 2), (1, 2))
    for found in (first, second):
        assert found["sum"].tolist() == [2.0, 1.0]
        assert found["enough"].item() == 1.5
        assert found["least"].item() == 0.5
        assert found["shared"] == {"from": 0}
        assert found["everywhere"] == ["0", "1"]
        assert not found["weights"].any()
    assert (first["on main"], second["on main"]) == ([0, 1], [])


def test_alone_nothing_is_changed() -> None:
    assert (process_index(), process_count()) == (0, 1)
    value = torch.tensor([2.0])
    assert sum_over_processes(value) is value
    assert joint_normalizer(7, 1, CPU) == 7
    assert joint_normalizer(0, 1, CPU) == 1
    assert joint_normalizer(torch.tensor(0.25), 1e-9, CPU) == 0.25
    assert gather_everywhere("x") == gather_on_main("x") == ["x"]
    assert share_from_main("x") == "x"


# --- evaluation -------------------------------------------------------------------------------------------------------


class Guesser:
    """Boxes that depend on the picture and on what else is in its batch; remembers the pictures it was shown."""

    labels = ("cat", "dog")

    def __init__(self) -> None:
        self.shown: list[int] = []

    def predict(self, images: Any, threshold: float = 0.3, size: Any = None, batch_size: int = 1) -> list[Detections]:
        values = [image.getpixel((0, 0))[0] for image in images]
        self.shown += values
        return [self.detections(value, sum(values)) for value in values]

    def detections(self, value: int, company: int) -> Detections:
        generator = torch.Generator().manual_seed(1000 * value + company)
        boxes = torch.tensor([[10.0, 10, 40, 30]]) + 4 * torch.rand(3, 4, generator=generator)
        labels = torch.randint(2, (3,), generator=generator)
        return Detections(boxes, torch.rand(3, generator=generator), labels, self.labels, (50, 60))


def write_pictures(folder: Path, count: int, unreadable: frozenset[int] = frozenset()) -> DetectionDataset:
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for index in range(count):
        path = folder / f"{index}.png"
        if index in unreadable:
            path.write_bytes(b"no picture")
        else:
            Image.new("RGB", (60, 50), (index, 0, 0)).save(path)
        boxes = np.array([[11, 12, 42, 31]], dtype=np.float32)
        label, crowd = np.array([index % 2]), np.array([False])
        samples.append(Sample(path, 60, 50, boxes, label, crowd, image_id=100 - index))
    return DetectionDataset(samples, Guesser.labels)


def evaluate_all(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for count, batch_size, broken in ((7, 2, {4}), (2, 1, set()), (6, 4, set())):
        model, dataset = Guesser(), write_pictures(folder / str(process_index()) / str(count), count, frozenset(broken))
        evaluation = evaluate_together(model, dataset, batch_size=batch_size)
        found[f"{count} images"] = (evaluation, model.shown)
    try:
        evaluate_together(Guesser(), write_pictures(folder / str(process_index()) / "rubbish", 2, frozenset({0, 1})))
    except DatasetError as error:
        found["error"] = str(error)
    return found


@pytest.fixture(scope="module")
def three_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("group")
    return run_together(folder, 3, evaluate_all, folder)


@pytest.mark.parametrize(("count", "batch_size", "broken"), [(7, 2, {4}), (2, 1, set()), (6, 4, set())])
def test_evaluating_together_gives_the_same_numbers(
    three_processes: list[Any], tmp_path: Path, count: int, batch_size: int, broken: set[int]
) -> None:
    model = Guesser()
    alone = evaluate(model, write_pictures(tmp_path, count, frozenset(broken)), batch_size=batch_size)
    together: Evaluation = three_processes[0][f"{count} images"][0]
    assert together.metrics == alone.metrics
    assert together.per_class == alone.per_class
    assert together.detections == alone.detections
    assert len(together.notes) == len(broken) == len(alone.notes)
    assert alone.metrics["AP50"]
    assert all(found[f"{count} images"][0] is None for found in three_processes[1:])
    shown = [value for found in three_processes for value in found[f"{count} images"][1]]
    assert sorted(shown) == sorted(model.shown) == [index for index in range(count) if index not in broken]


def test_no_process_waits_when_nothing_can_be_read(three_processes: list[Any]) -> None:
    assert all("none of the 2 images can be read" in found["error"] for found in three_processes)


# --- data -------------------------------------------------------------------------------------------------------------


def shown(batches: EpochBatches, epoch: int, first_batch: int = 0) -> list[list[Key]]:
    batches.set_epoch(epoch, first_batch)
    return list(batches)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_batches_of_one(processes: int) -> None:
    alone = shown(EpochBatches(20, 2 * processes, seed=5), 3)
    together = [shown(EpochBatches(20, 2, 5, True, index, processes), 3) for index in range(processes)]
    assert [[pair for part in parts for pair in part] for parts in zip(*together, strict=True)] == alone
    assert all(len(part) == 2 for batches in together for part in batches)


def test_a_set_smaller_than_a_joined_batch_gives_each_process_as_many() -> None:
    together = [shown(EpochBatches(3, 4, 0, True, index, 5), 1) for index in range(5)]
    assert [[len(part) for part in batches] for batches in together] == [[1]] * 5
    assert {pair for batches in together for part in batches for pair in part} == set(
        shown(EpochBatches(3, 3, 0), 1)[0]
    )


def test_an_epoch_goes_on_at_any_batch() -> None:
    batches = EpochBatches(11, 2, seed=1)
    whole = shown(batches, 4)
    assert [shown(batches, 4, first) for first in range(6)] == [whole[first:] for first in range(6)]
    assert shown(batches, 5) != whole
