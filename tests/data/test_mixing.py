"""Mosaic and copy-paste: boxes stay with what they enclose, whatever pictures were mixed."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dyzoo.data import DetectionDataset, TransformConfig, build_loader, open_dataset, train_transform
from dyzoo.data.loader import Batch
from dyzoo.data.mixing import Mixing
from tests.data.data_builders import write_xml

SIZE_PX = (96, 160)
STILL = TransformConfig(horizontal_flip=0, scale_range=(1, 1), crop=0, colour=0)
MOSAIC, PASTE = replace(STILL, mosaic=1.0), replace(STILL, copy_paste=1.0)
BOTH = replace(MOSAIC, copy_paste=1.0)
EVERYTHING = TransformConfig(vertical_flip=0.5, rotate90=0.5, colour=1, mosaic=0.5, copy_paste=0.7)
GREEN, BLUE = 1, 2


def write_set(folder: Path, pictures: int = 6) -> Path:
    """Dark noise with a green and a blue square in each, of sizes and shapes that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(pictures):
        height, width = ((96, 128), (128, 96), (200, 240), (60, 160), (50, 40), (96, 96))[number % 6]
        pixels = np.random.default_rng(number).integers(0, 40, (height, width, 3), dtype=np.uint8)
        side = min(height, width) // 4
        boxes = {"b": (5 + number, 6, 5 + number + side, 6 + side), "g": (width - side, 20, width, 20 + side)}
        for name, (x1, y1, x2, y2) in boxes.items():
            pixels[y1:y2, x1:x2] = np.eye(3)[GREEN if name == "g" else BLUE] * 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
        corners = [(name, (x1 + 1, y1 + 1, x2, y2)) for name, (x1, y1, x2, y2) in boxes.items()]
        write_xml(folder / f"{number}.xml", *corners, size=(width, height))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return open_dataset(write_set(tmp_path_factory.mktemp("set")))


def mixed(dataset: DetectionDataset, config: TransformConfig, seed: int, index: int = 0) -> tuple[Tensor, dict]:
    torch.manual_seed(seed)
    return Mixing(SIZE_PX, config)(dataset, index)


def share_of_class(image: Tensor, label: int, box: list[float]) -> float:
    """How much of a box, a pixel further in, has its class's colour."""
    x1, y1, x2, y2 = (round(edge) for edge in box)
    inner = image[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].float()
    channel = BLUE if label == 0 else GREEN
    others = inner[[c for c in range(3) if c != channel]].amax(0)
    return float(((inner[channel] > 180) & (others < 90)).float().mean()) if inner.numel() else 1.0


@pytest.mark.parametrize("config", [MOSAIC, PASTE, BOTH], ids=["mosaic", "paste", "both"])
def test_every_box_encloses_its_object(dataset: DetectionDataset, config: TransformConfig) -> None:
    for seed in range(40):
        image, target = mixed(dataset, config, seed, seed % len(dataset))
        assert len(target["boxes"]) == len(target["labels"]) > 0
        height, width = image.shape[1:]
        for label, box in zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True):
            assert 0 <= box[0] < box[2] <= width
            assert 0 <= box[1] < box[3] <= height
            if min(box[2] - box[0], box[3] - box[1]) > 4:
                assert share_of_class(image, label, box) > 0.6  # a fifth may be hidden, and half a pixel at each edge


@pytest.mark.parametrize("config", [MOSAIC, PASTE, BOTH], ids=["mosaic", "paste", "both"])
def test_every_object_that_is_seen_well_has_a_box(dataset: DetectionDataset, config: TransformConfig) -> None:
    """Colour that no box encloses is what is left of objects that were cut, less than half of each."""
    outside = inside = 0.0
    for seed in range(40):
        image, target = mixed(dataset, config, seed)
        bright = (image[GREEN] > 180) | (image[BLUE] > 180)
        bright &= (image.amax(0).float() - image.amin(0).float()) > 120  # not grey
        covered = torch.zeros_like(bright)
        for x1, y1, x2, y2 in target["boxes"].round().int().tolist():
            covered[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
        outside += float((bright & ~covered).sum())
        inside += float((bright & covered).sum())
    assert outside < 0.12 * inside


def test_a_mosaic_shows_four_pictures_and_is_no_larger_than_the_first_alone(dataset: DetectionDataset) -> None:
    """The pictures have two objects each."""
    config = replace(MOSAIC, scale_range=(0.75, 1.33))
    most = 0
    for seed in range(60):
        image, target = mixed(dataset, config, seed)
        assert max(image.shape[1:]) <= round(1.33 * SIZE_PX[1])
        assert min(image.shape[1:]) <= round(1.33 * SIZE_PX[0])
        most = max(most, len(target["boxes"]))
    assert 4 < most <= 8


def test_pasting_adds_objects_and_hides_none(dataset: DetectionDataset) -> None:
    added = 0
    for seed in range(40):
        alone = mixed(dataset, STILL, seed)[1]
        image, target = mixed(dataset, PASTE, seed)
        assert torch.equal(target["boxes"][:2], alone["boxes"])
        assert torch.equal(target["labels"][:2], alone["labels"])
        for label, box in zip(alone["labels"].tolist(), alone["boxes"].tolist(), strict=True):
            assert share_of_class(image, label, box) > 0.75
        added += len(target["boxes"]) - 2
    assert added > 20


def test_a_cutout_has_no_hard_edge_and_is_whole_inside_its_box(dataset: DetectionDataset) -> None:
    ours = torch.zeros(3, 96, 96, dtype=torch.uint8)
    theirs = torch.full((3, 96, 96), 255, dtype=torch.uint8)
    mixing = Mixing((96, 96), PASTE)
    nothing = {"boxes": dataset[0][1]["boxes"][:0], "labels": torch.zeros(0, dtype=torch.int64), "image_id": 1}
    boxes = dataset[0][1]["boxes"][:1].clone()
    boxes[0] = torch.tensor([30.0, 30, 62, 70])
    torch.manual_seed(0)
    image, target = mixing.paste(ours, nothing, (theirs, {**nothing, "boxes": boxes, "labels": torch.tensor([1])}))
    ((x1, y1, x2, y2),) = target["boxes"].int().tolist()
    assert (x2 - x1, y2 - y1) == (32, 40)
    assert (image[:, y1:y2, x1:x2] == 255).all()
    steps = image.int().diff(dim=1).abs().max(), image.int().diff(dim=2).abs().max()
    assert max(steps) < 80  # out of 255: it fades over four pixels at least
    assert (ours == 0).all(), "the picture given is left as it is"


def test_what_lies_in_a_cutout_brings_its_label(dataset: DetectionDataset) -> None:
    image, target = dataset[0]
    nothing = {"boxes": target["boxes"][:0], "labels": target["labels"][:0], "image_id": 1}
    boxes = torch.tensor([[10.0, 10, 70, 70], [20, 20, 40, 40], [60, 60, 95, 95]])
    theirs = {**target, "boxes": target["boxes"].new_tensor([]), "labels": torch.tensor([0, 1, 1])}
    theirs["boxes"] = type(target["boxes"])(boxes, format="XYXY", canvas_size=(96, 128))  # type: ignore[call-arg]
    sizes = set()
    for seed in range(30):
        torch.manual_seed(seed)
        found = Mixing((96, 160), PASTE).paste(torch.zeros(3, 96, 128, dtype=torch.uint8), nothing, (image, theirs))[1]
        for label, (x1, y1, x2, y2) in zip(found["labels"].tolist(), found["boxes"].tolist(), strict=True):
            sizes.add((label, round(x2 - x1), round(y2 - y1)))
        if (0, 60, 60) in {(label, *side) for label, *side in sizes} and len(found["boxes"]) > 1:
            assert (found["labels"] == 1).any()
    assert sizes == {(0, 60, 60), (1, 20, 20), (1, 35, 35)}


def test_pictures_without_objects_are_mixed_too(tmp_path: Path) -> None:
    write_set(tmp_path, 2)
    for number in range(5):
        Image.new("RGB", (70, 50)).save(tmp_path / f"empty_{number}.png")
        write_xml(tmp_path / f"empty_{number}.xml", size=(70, 50))
    dataset = open_dataset(tmp_path)
    counts = set()
    for seed in range(30):
        image, target = mixed(dataset, EVERYTHING, seed, seed % len(dataset))
        assert min(image.shape) > 0
        assert target["boxes"].shape == (len(target["labels"]), 4)
        assert target["boxes"].dtype == torch.float32
        counts.add(len(target["labels"]))
    assert 0 in counts
    assert max(counts) > 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (700, 1)])
def test_pictures_of_one_pixel_and_of_one_line(tmp_path: Path, height: int, width: int) -> None:
    Image.new("RGB", (width, height)).save(tmp_path / "a.png")
    write_xml(tmp_path / "a.xml", ("b", (1, 1, width, height)), size=(width, height))
    dataset = open_dataset(write_set(tmp_path, 1))
    for seed in range(20):
        image, target = mixed(dataset, EVERYTHING, seed, seed % 2)
        assert min(image.shape) > 0
        assert len(target["boxes"]) == len(target["labels"])


def test_an_unreadable_picture_is_passed_over(tmp_path: Path) -> None:
    dataset = open_dataset(write_set(tmp_path, 3))
    dataset.samples[1].image_path.write_bytes(b"")
    with pytest.warns(UserWarning, match="is empty .*; another image takes its place"):
        samples = [mixed(dataset, BOTH, seed, 1) for seed in range(10)]
    assert all(len(target["boxes"]) > 0 for _, target in samples)


# --- in the loader ----------------------------------------------------------------------------------------------------


def draw(
    dataset: DetectionDataset, epoch: int, workers: int = 0, first_batch: int = 0, **settings: object
) -> list[Batch]:
    loader = build_loader(dataset, 2, seed=1, workers=workers, **settings)  # type: ignore[arg-type]
    loader.set_epoch(epoch, first_batch)
    return list(loader)


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a[0], b[0], strict=True)]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def plain(dataset: DetectionDataset) -> DetectionDataset:
    return DetectionDataset(dataset.samples, dataset.labels, transform=train_transform(SIZE_PX, EVERYTHING))


def test_seed_and_epoch_decide_and_the_number_of_workers_does_not(plain: DetectionDataset) -> None:
    """Workers that persist from a mixed epoch to a plain one see the change."""
    settings = {"mixing": Mixing(SIZE_PX, EVERYTHING), "mixed_epochs": 2}
    here = {epoch: draw(plain, epoch, **settings) for epoch in (1, 2, 3)}
    workers = build_loader(plain, 2, seed=1, workers=2, **settings)  # type: ignore[arg-type]
    for epoch in (1, 2, 3):
        workers.set_epoch(epoch)
        assert same(list(workers), here[epoch])
    assert not same(here[1], here[2])
    assert same(draw(plain, 2, first_batch=1, **settings), here[2][1:])  # resumed
    assert same(here[3], draw(plain, 3))
    assert not same(here[2], draw(plain, 2))


def test_without_mixed_epochs_nothing_changes(plain: DetectionDataset) -> None:
    for epoch in (0, 1):
        assert same(draw(plain, epoch, mixing=Mixing(SIZE_PX, EVERYTHING)), draw(plain, epoch))


def test_can_be_sent_to_a_spawned_worker(plain: DetectionDataset) -> None:
    loader = build_loader(plain, 2, mixing=Mixing(SIZE_PX, BOTH), mixed_epochs=1)
    key = (3, 12345, True)
    assert torch.equal(pickle.loads(pickle.dumps(loader.dataset))[key][0], loader.dataset[key][0])


@pytest.mark.parametrize(
    ("setting", "epochs", "mixed_epochs"),
    [
        ({}, 36, 0),
        ({"mosaic": 0.5}, 36, 32),
        ({"copy_paste": 0.5}, 10, 9),
        ({"mosaic": 1.0, "mix_until": 1.0}, 10, 10),
        ({"mosaic": 1.0, "mix_until": 0.29}, 100, 29),
        ({"mosaic": 1.0}, 1, 1),
    ],
)
def test_the_last_epochs_are_plain(setting: dict[str, float], epochs: int, mixed_epochs: int) -> None:
    assert TransformConfig(**setting).mixed_epochs(epochs) == mixed_epochs  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", [{"mosaic": 1.1}, {"copy_paste": -0.1}, {"mix_until": 0.0}, {"mix_until": 1.5}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        TransformConfig(**setting)  # type: ignore[arg-type]
