"""timm's published backbone weights: from the Hub, from a file, and a quick word where there are none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load, save

import dyzoo
from dyzoo.errors import DyzooError
from tests.hub.hub_client import set_offline
from tests.hub.hub_server import Hub

ARCHITECTURE, REPOSITORY = "dyhead_atss_resnet10t", "timm/resnet10t.c3_in1k"


@pytest.fixture(scope="module")
def weights() -> bytes:
    """A whole classifier, as timm publishes them."""
    torch.manual_seed(0)
    return save(timm.create_model("resnet10t").state_dict())


def first_weight(model: dyzoo.Detector) -> torch.Tensor:
    return model.backbone.state_dict()["model.conv1.0.weight"]


def test_they_come_from_the_hub(hub: Hub, cache: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPOSITORY, {"model.safetensors": weights, "pytorch_model.bin": b"never asked for"})
    model = dyzoo.create_model(ARCHITECTURE, labels=["a"], pretrained_backbone=True)
    assert torch.equal(first_weight(model), load(weights)["conv1.0.weight"])
    assert not any(request.endswith(".bin") for request in hub.requests)
    set_offline(monkeypatch)
    model = dyzoo.create_model(ARCHITECTURE, labels=["a"], pretrained_backbone=True)
    assert torch.equal(first_weight(model), load(weights)["conv1.0.weight"])


def test_they_come_from_a_file(hub: Hub, cache: Path, weights: bytes, tmp_path: Path) -> None:
    path = tmp_path / "resnet10t.safetensors"
    path.write_bytes(weights)
    model = dyzoo.create_model(ARCHITECTURE, labels=["a"], pretrained_backbone=path)
    assert torch.equal(first_weight(model), load(weights)["conv1.0.weight"])
    assert hub.requests == []


@pytest.mark.parametrize("offline", [True, False])
def test_without_network_it_says_so_at_once(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)  # huggingface_hub would, for half a minute
    set_offline(monkeypatch, offline)
    hub.server_close()
    with pytest.raises(DyzooError, match="--no-pretrained-backbone") as caught:
        dyzoo.create_model(ARCHITECTURE, labels=["a"], pretrained_backbone=True)
    assert "\n" not in str(caught.value)
    assert "resnet10t" in str(caught.value)
    assert waits == []
