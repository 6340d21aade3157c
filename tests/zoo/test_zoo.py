import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dyzoo
from dyzoo.config import BackboneConfig, DyHeadConfig
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.errors import CheckpointError, UnknownModelError
from dyzoo.model.detector import Detector
from dyzoo.zoo import catalog, creation
from dyzoo.zoo.names import DEFAULT_MODEL


def test_list_models_takes_wildcards() -> None:
    swins = [f"dyhead_atss_swin_{size}" for size in ("base", "large", "small", "tiny")]
    assert [name for name in dyzoo.list_models("*atss_swin*") if name in swins] == swins
    assert all("swin" in name for name in dyzoo.list_models("*swin*"))
    assert "dyhead_atss_resnet50" in dyzoo.list_models()
    assert dyzoo.list_models("nothing*") == []
    assert DEFAULT_MODEL in dyzoo.list_models("*.bccd", pretrained=True)


def test_every_architecture_says_what_it_is() -> None:
    for name, function in ARCHITECTURES.items():
        assert (function.__doc__ or "").splitlines()[0].endswith("."), name


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("dyhead_atss_resnet5O", "dyhead_atss_resnet50"), ("swin_tiny", "dyhead_atss_swin_tiny")],
)
def test_a_misspelt_name_is_answered_with_the_nearest(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownModelError, match=suggestion):
        dyzoo.create_model(name)


def test_an_architecture_without_weights_says_which_have_some() -> None:
    for name, nearest in (
        ("dyhead_atss_resnet50", "official_atss_r50.coco"),
        ("dyhead_atss_swin_large", "mmdet_atss_swin_l.coco"),
        ("dyhead_faster_rcnn_resnet50", "official_faster_rcnn_r50.coco"),
        ("dyhead_retinanet_resnet50", "official_retinanet_r50.coco"),
    ):
        with pytest.raises(UnknownModelError, match=f"{name} has no published weights.*nearest.* is {nearest}: "):
            dyzoo.create_model(name, pretrained=True)


def test_new_labels_and_another_backbone() -> None:
    model = dyzoo.create_model("dyhead_atss_resnet10t", labels=["cat"], backbone="convnext_atto")
    assert model.labels == ("cat",)
    assert model.config.backbone.name == "convnext_atto"
    assert len(model.predict(torch.zeros(3, 64, 64, dtype=torch.uint8))) == 1
    with pytest.raises(ValueError, match="the backbone comes with a pretrained detector"):
        dyzoo.create_model(DEFAULT_MODEL, pretrained=True, backbone="convnext_atto")


def test_a_number_of_classes_in_place_of_their_names() -> None:
    name = "dyhead_atss_resnet10t"
    assert dyzoo.create_model(name, num_classes=2).labels == ("class_0", "class_1")
    with pytest.warns(creation.NewClassesWarning, match=r"0 of 3 classes .* begins anew for class_0, class_1, class_2"):
        assert len(dyzoo.create_model(DEFAULT_MODEL, pretrained=True, num_classes=3).labels) == 3
    with pytest.raises(ValueError, match="num_classes and labels are both given"):
        dyzoo.create_model(name, num_classes=1, labels=["cat"])
    for number in (0, -1, 10**12):
        with pytest.raises(ValueError, match=f"num_classes is {number}, expected 1 to 30000"):
            dyzoo.create_model(name, num_classes=number)


def test_a_misspelt_checkpoint_is_answered_with_checkpoints_alone() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean mmdet_atss_r50\.coco") as caught:
        dyzoo.create_model("mmdet_atss_r50.cocoa", pretrained=True)
    assert "folder" not in str(caught.value)
    with pytest.raises(UnknownModelError, match=r"did you mean mmdet_atss_r50\.coco.*or a folder with .*org/name"):
        dyzoo.load("mmdet_atss_r50.cocoa")


def test_the_embedded_checkpoint_finds_cells_on_the_sample_image() -> None:
    model = dyzoo.create_model(DEFAULT_MODEL, pretrained=True)
    assert model.labels == ("Platelets", "RBC", "WBC")
    detections = model.predict(catalog.sample_image(), threshold=0.5)[0]
    assert {detections.names[label] for label in detections.labels.tolist()} >= {"RBC", "WBC"}


def test_the_tag_may_be_left_out_where_there_is_one() -> None:
    with_tag = dyzoo.create_model(DEFAULT_MODEL, pretrained=True).state_dict()
    without = dyzoo.create_model(DEFAULT_MODEL.split(".")[0], pretrained=True).state_dict()
    assert all(torch.equal(value, without[name]) for name, value in with_tag.items())


def test_every_checkpoint_of_the_catalogue_is_whole_and_small_enough_to_ship() -> None:
    for checkpoint in (entry for entry in catalog.checkpoints().values() if entry.folder is not None):
        folder = catalog.weights_folder() / checkpoint.folder
        assert (folder / "model.safetensors").stat().st_size <= 16 * 2**20
        assert (folder / "README.md").is_file()
        assert creation.load_model(checkpoint.name).config.architecture == checkpoint.name.split(".")[0]


def test_weights_that_are_not_the_catalogues_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(catalog.weights_folder(), tmp_path / "weights")
    folder = tmp_path / "weights" / catalog.checkpoints()[DEFAULT_MODEL].folder
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    monkeypatch.setattr(creation, "weights_folder", lambda: tmp_path / "weights")
    with pytest.raises(CheckpointError, match="sha256 differs"):
        dyzoo.create_model(DEFAULT_MODEL, pretrained=True)


def test_files_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "weights_folder", lambda: tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json of .* is not there: install dyzoo again"):
        dyzoo.create_model(DEFAULT_MODEL, pretrained=True)


def test_load_model_takes_a_folder_a_run_and_a_name(tmp_path: Path) -> None:
    model = dyzoo.create_model("dyhead_atss_resnet10t", labels=["cat"])
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "run" / "best")
    for place in (tmp_path / "plain", tmp_path / "run"):
        assert creation.load_model(place).labels == ("cat",)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        creation.load_model(tmp_path)
    with pytest.raises(UnknownModelError, match="or a folder with"):
        creation.load_model(tmp_path / "absent")


def test_other_labels_of_a_detector_whose_classes_are_text_have_outputs_of_their_own() -> None:
    """Tokens of a known class stay, and each new class gets one output."""
    config = ARCHITECTURES["mmdet_glip_t_a"]()
    head = replace(config.head, tokens_per_class=(2, 3))
    small = replace(config, backbone=BackboneConfig("resnet10t"), dyhead=DyHeadConfig(num_blocks=1))
    source = Detector(replace(small, labels=("cat", "dog"), head=head))
    with pytest.warns(creation.NewClassesWarning, match="begins anew for cow"):
        model = creation.with_labels(source, ["dog", "cow"])
    assert model.config.head.tokens_per_class == (3, 1)
    assert torch.equal(model.head.cls.weight[:3], source.head.cls.weight[2:])
