"""Tables of launch parameters as files: merged, and refused in one line when they cannot be used."""

import json
from pathlib import Path

import pytest
import torch
from dyhead_kernels.launch import tuning

from benchmarks.tune.space import Parameters
from benchmarks.tune.table import merge

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DEFAULT = tuning.load_table(tuning.DEFAULT)
KERNEL = "mix_forward"


def test_merging_keeps_other_kernels_and_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gpu.json"
    half, other = DEFAULT["deform_conv_forward"]["half"], DEFAULT["deform_conv_forward"]["float32"]
    merge(path, {"deform_conv_forward": {"half": {**half, "maxnreg": 128}}})
    merge(path, {"offsets_pointwise": {"any": {"BLOCK_P": 64, "TILE_W": 4, "num_warps": 2}}})
    merge(path, {"deform_conv_forward": {"float32": {**other, "num_warps": 4}}, KERNEL: {"half": _applied(2)}})
    assert json.loads(path.read_text()) == {
        "deform_conv_forward": {"half": {**half, "maxnreg": 128}, "float32": {**other, "num_warps": 4}},
        "offsets_pointwise": {"any": {"BLOCK_P": 64, "TILE_W": 4, "num_warps": 2}},
        KERNEL: {"half": _applied(2)},
    }
    assert list(path.parent.iterdir()) == [path]
    table = tuning.load_table("gpu", path.parent)
    with tuning.overriding(table):
        assert tuning.launch_parameters("deform_conv_forward", torch.float16, DEVICE)["maxnreg"] == 128
        assert tuning.launch_parameters(KERNEL, torch.bfloat16, DEVICE) == _applied(2)
        assert tuning.launch_parameters(KERNEL, torch.float32, DEVICE) == DEFAULT[KERNEL]["any"]
        assert (
            tuning.launch_parameters("offsets_forward", torch.float32, DEVICE) == DEFAULT["offsets_forward"]["float32"]
        )


def _applied(warps: int) -> Parameters:
    return {**next(iter(DEFAULT[KERNEL].values())), "num_warps": warps}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ', "is not JSON"),
        ("\x00\xff", "is not JSON"),
        ("[1, 2]", "is an object of kernels, this is a list"),
        ('{"gemm": {}}', "there is no kernel 'gemm', expected some of "),
        ('{"mix_pointwise": {}}', "there is no kernel 'mix_pointwise', expected some of offsets_forward, "),
        ('{"offsets_pointwise": 3}', "offsets_pointwise has no entries"),
        ('{"offsets_pointwise": {"bf16": {}}}', "offsets_pointwise has an entry 'bf16', expected some of half"),
        ('{"offsets_pointwise": {"any": {"BLOCK_P": 16, "TILE_W": 8}}}', "offsets_pointwise, any, lacks num_warps"),
        ('{"offsets_pointwise": {"any": 7}}', "offsets_pointwise, any, lacks BLOCK_P, TILE_W, num_warps"),
        (
            '{"offsets_pointwise": {"any": {"BLOCK_P": 16, "TILE_W": 8, "num_warps": 4, "BLOCK_M": 1}}}',
            "any, has BLOCK_M, which",
        ),
        (
            '{"offsets_pointwise": {"any": {"BLOCK_P": 16, "TILE_W": 8, "num_warps": "4"}}}',
            "num_warps is '4', expected a positive",
        ),
        (
            '{"offsets_pointwise": {"any": {"BLOCK_P": 0, "TILE_W": 8, "num_warps": 4}}}',
            "BLOCK_P is 0, expected a positive",
        ),
        ('{"offsets_pointwise": {"any": {"BLOCK_P": 16, "TILE_W": 32, "num_warps": 4}}}', "no multiple of TILE_W"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gpu.json"
    path.write_bytes(text.encode("latin-1"))
    for read in (lambda: tuning.load_table("gpu", tmp_path), lambda: merge(path, {})):
        with pytest.raises(tuning.TableError) as caught:
            read()
        assert str(caught.value).startswith(str(path))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == text.encode("latin-1")


def test_shipped_tables_can_be_used() -> None:
    for path in tuning.FOLDER.glob("*.json"):
        assert tuning.read_table(path)
