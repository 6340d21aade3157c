"""Batches: lists of unequal images, decided by seed and epoch alone."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch

from dyzoo.data import DetectionDataset, build_loader, open_dataset, train_transform
from dyzoo.data.loader import Batch
from tests.data.data_builders import write_picture, write_xml

COUNT = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("set")
    for number in range(COUNT):
        write_picture(folder / f"{number}.png", (40 + number, 30))
        write_xml(folder / f"{number}.xml", ("cat", (1, 2, 11, 22)), size=(40 + number, 30))
    dataset = open_dataset(folder)
    dataset.transform = train_transform((30, 60))
    return dataset


def same(one: list[Batch], other: list[Batch]) -> bool:
    """Whether all images and boxes agree."""
    pairs = list(zip(one, other, strict=True))
    return all(
        len(a) == len(b)
        and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))
        and all(torch.equal(x["boxes"], y["boxes"]) for x, y in zip(s, t, strict=True))
        for (a, s), (b, t) in pairs
    )


def ids(batches: list[Batch]) -> list[int]:
    return [target["image_id"] for _, targets in batches for target in targets]


def test_a_batch_is_two_lists(dataset: DetectionDataset) -> None:
    images, targets = next(iter(build_loader(dataset, 3)))
    assert len(images) == len(targets) == 3
    assert all(image.ndim == 3 and image.dtype == torch.uint8 for image in images)
    assert all(target["boxes"].shape == (1, 4) for target in targets)


def test_seed_and_epoch_decide_and_the_number_of_workers_does_not(dataset: DetectionDataset) -> None:
    def draw(loader, epoch: int) -> list[Batch]:
        loader.set_epoch(epoch)
        return list(loader)

    here, workers = build_loader(dataset, 2, seed=1), build_loader(dataset, 2, seed=1, workers=2)
    first, second = draw(here, 1), draw(here, 2)
    assert not same(first, second)
    assert same(draw(workers, 1), first)
    assert same(draw(workers, 2), second)  # persistent workers, second round
    assert same(draw(build_loader(dataset, 2, seed=1), 2), second)  # resumed
    assert not same(draw(build_loader(dataset, 2, seed=2), 1), first)


def test_seed_and_epoch_are_not_interchangeable(dataset: DetectionDataset) -> None:
    one, other = build_loader(dataset, 7, seed=2), build_loader(dataset, 7, seed=3)
    one.set_epoch(3)
    other.set_epoch(2)
    assert not same(list(one), list(other))


def test_loading_leaves_the_random_numbers_of_training_alone(dataset: DetectionDataset) -> None:
    batches = iter(build_loader(dataset, 2))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    next(batches)
    assert torch.equal(torch.rand(3), expected)


def test_can_be_sent_to_a_spawned_worker(dataset: DetectionDataset) -> None:
    received = pickle.loads(pickle.dumps(build_loader(dataset, 2).dataset))
    key = (3, 12345, False)
    assert torch.equal(received[key][0], build_loader(dataset, 2).dataset[key][0])


def test_python_can_end_while_workers_wait(dataset: DetectionDataset) -> None:
    """A script that holds on to its loader, or that ends with an error within an epoch."""
    script = (
        "import atexit, sys\nfrom multiprocessing import active_children, util\n"  # what comes later runs before it
        "atexit.register(lambda: print(active_children()))\nfrom dyzoo.data import build_loader, open_dataset\n"
        "loader = build_loader(open_dataset(sys.argv[1]), 2, workers=1)\nbatches = iter(loader)\nnext(batches)\n"
    )
    command = [sys.executable, "-c", script, str(dataset.samples[0].image_path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_an_epoch_shows_every_image_at_most_once(dataset: DetectionDataset) -> None:
    loader = build_loader(dataset, 3)
    shown = ids(list(loader))
    assert len(loader) == 2
    assert len(shown) == len(set(shown)) == 6


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 7), (7, 1), (8, 1), (100, 1)])
def test_a_set_smaller_than_a_batch_still_trains(dataset: DetectionDataset, batch_size: int, batches: int) -> None:
    loader = build_loader(dataset, batch_size)
    assert len(loader) == len(list(loader)) == batches
    assert sorted(ids(list(loader))) == list(range(1, COUNT + 1))


def test_without_shuffling_everything_comes_in_order(dataset: DetectionDataset) -> None:
    assert ids(list(build_loader(dataset, 2, shuffle=False))) == list(range(1, COUNT + 1))


def test_batch_size_is_checked(dataset: DetectionDataset) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        build_loader(dataset, 0)
