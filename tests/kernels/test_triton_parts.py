"""What the Triton forms are put together from: tables, parts of sums, the choice of precision, launch parameters."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from test_dyhead_block import random_parameters, random_pyramid
from test_ops import OPS, block_arguments, conv_arguments, detached
from test_triton_block import tiles

pytest.importorskip("triton")

from dyhead_kernels.dyhead_block.layout import HIGH, LOW, MID, Layout
from dyhead_kernels.dyhead_block.tables import BlockTables, block_tables
from dyhead_kernels.launch import launching, tuning

SHAPES = ((9, 6), (5, 3), (3, 2))
CPU = torch.device("cpu")


@pytest.fixture
def _few_tiles() -> Iterator[None]:
    """Interpreted programs are slow."""
    with tuning.overriding(tiles(128, 8)):
        yield


@pytest.mark.usefixtures("_few_tiles")
@pytest.mark.parametrize(("batch", "bias"), [(1, True), (0, False)])
def test_opcheck(batch: int, bias: bool, triton_device: torch.device) -> None:
    def moved(arguments: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(
            a.detach().to(triton_device).requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments
        )

    arguments = moved(conv_arguments(batch, torch.float32, bias, "triton"))
    torch.library.opcheck(OPS.deform_conv.default, arguments)
    output = OPS.deform_conv(*detached(arguments))
    needs = [a is not None for a in arguments[:5]]
    torch.library.opcheck(OPS.deform_conv_backward.default, (torch.ones_like(output), *detached(arguments), needs))

    arguments = moved(block_arguments(batch, torch.float32, bias, "triton", ((3, 2), (2, 1))))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(OPS.dyhead_block.default, arguments, test_utils=checks)
    output, *state = OPS.dyhead_block(*detached(arguments))
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            OPS.dyhead_block_backward.default, (torch.ones_like(output), *detached(arguments), state, *needs)
        )


def test_compiles_into_one_graph(triton_device: torch.device) -> None:
    from dyhead_kernels import BlockParameters, Pyramid, dyhead_block

    parameters = BlockParameters(
        *(t.detach().float().to(triton_device).requires_grad_() for t in vars(random_parameters()).values())
    )
    values = random_pyramid(((4, 3), (2, 2)), batch=1).values.detach().float().to(triton_device).requires_grad_()

    def twice(values: torch.Tensor) -> torch.Tensor:
        pyramid = Pyramid(values * 2, ((4, 3), (2, 2)))
        return dyhead_block(pyramid, parameters, offset_mode="flat", norm_groups=4, backend="triton").values.sin()

    (eager,) = torch.autograd.grad(twice(values).sum(), values)
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(values).sum(), values)
    torch.testing.assert_close(found, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["flat", "crop", "resize"])
def test_every_row_of_every_branch_is_in_one_tile(mode: str) -> None:
    plan = BlockTables(Layout(SHAPES), mode)
    made = plan.segments.tables(4, 4, CPU)
    rows: list[int] = []
    for index, first, end in zip(range(len(plan.branch_levels)), made.first_tile, made.first_tile[1:], strict=False):
        segment = plan.segments.maps[index]
        for which, top, left in made.tiles[first:end].tolist():
            assert which == index
            for y in range(top, min(top + 4, segment.height)):
                for x in range(left, min(left + 4, segment.width)):
                    start = 2 * segment.row_before + segment.row_start + y * segment.width + x
                    rows += (start + image * segment.row_image for image in (0, 1))
    assert sorted(rows) == list(range(2 * plan.rows))


def test_steering_of_a_branch_stays_within_its_image() -> None:
    for mode in ("flat", "crop", "resize"):
        plan = BlockTables(Layout(SHAPES), mode)
        for (branch, level), segment in zip(plan.branch_levels, plan.segments.maps, strict=True):
            height, width = segment.height, segment.width
            last = (height - 1) * segment.steering_line + width - 1
            assert segment.offset_start + 17 * segment.steering_channel + last < segment.mask_start
            assert segment.mask_start + 8 * segment.steering_channel + last < plan.steering_size
            if branch != HIGH:
                assert segment.offset_start == 27 * plan.starts[level]
            assert segment.grad_mask_start + 9 * height * width <= plan.branch_steering_size


def test_shares_of_tiles_add_up_to_one_for_each_map() -> None:
    plan = BlockTables(Layout(((13, 10), (7, 5), (4, 3), (2, 2), (1, 1))), "flat")
    made = plan.segments.tables(2, 4, CPU)
    shares = plan.tile_shares(made)
    for (branch, _), (first, end) in zip(plan.branch_levels, pairwise(made.first_tile), strict=True):
        assert shares[first:end].sum() == pytest.approx(1, abs=1e-6)
        if branch in (MID, LOW):
            assert (shares[first:end] > 0).all()


def test_a_plan_is_made_once() -> None:
    layout = Layout(SHAPES)
    assert block_tables(layout, "flat") is block_tables(Layout(SHAPES), "flat")
    assert block_tables(layout, "flat") is not block_tables(layout, "crop")


@pytest.mark.parametrize("groups", [((0, 7),), ((0, 90), (90, 95), (95, 95)), ((3, 4),), ((0, 0),)])
@pytest.mark.parametrize("images", [0, 1, 3])
def test_parts_of_a_sum_cover_every_tile_of_every_image_once(groups: tuple[tuple[int, int], ...], images: int) -> None:
    parts = launching.parts_table(groups, images, CPU)
    assert len(parts.of_group) == len(groups)
    for (first, end), part in zip(groups, parts.of_group, strict=True):
        seen = []
        for start, count, low, high in parts.table[part].tolist():
            seen += [(index // count, start + index % count) for index in range(low, high)]
        assert sorted(seen) == [(image, tile) for image in range(images) for tile in range(first, end)]
    assert len(parts.table) <= launching.MOST_PARTS + len(groups)


@pytest.mark.parametrize(("size", "block"), [(1, 16), (16, 16), (17, 32), (256, 256), (500, 512)])
def test_blocks_are_powers_of_two_that_hold_all(size: int, block: int) -> None:
    assert launching.power_of_two(size) == block
    assert launching.block_size(64, size) == min(64, block)


@pytest.mark.parametrize(
    ("switch", "precision"),
    [
        ("pass", "tf32x3"),
        ("torch.set_float32_matmul_precision('high')", "tf32"),
        ("torch.backends.cuda.matmul.allow_tf32 = True", "tf32"),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "tf32"),
        ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", "tf32x3"),
    ],
)
def test_float32_products_follow_pytorch_s_switches(switch: str, precision: str) -> None:
    """In a process of their own: PyTorch refuses old and new switches in one."""
    code = (
        f"import torch; {switch}; from dyhead_kernels.launch.launching import dot_precision as dot;"
        "print(dot(), dot(exact=True))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [precision, "tf32x3"]


def test_an_unknown_gpu_gets_the_defaults_and_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Unheard Of 9000")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    tuning._table_of.cache_clear()
    device = torch.device("cuda", 0)
    with pytest.warns(UserWarning, match=r"Unheard Of 9000.*python -m benchmarks tune"):
        first = tuning.launch_parameters("mix_forward", torch.float32, device)
    assert first == tuning.load_table(tuning.DEFAULT)["mix_forward"]["any"]
    assert tuning.launch_parameters("mix_forward", torch.float32, device) == first  # and no second warning
    tuning._table_of.cache_clear()


def test_parameters_can_be_overridden_for_one_kernel() -> None:
    other = {"mix_forward": {"any": {"BLOCK_P": 64, "TILE_W": 8, "BLOCK_C": 16, "num_warps": 2}}}
    with tuning.overriding(other):
        assert tuning.launch_parameters("mix_forward", torch.float32, CPU)["BLOCK_P"] == 64
        assert tuning.launch_parameters("mix_backward", torch.float32, CPU)["BLOCK_P"] != 64
    assert tuning.launch_parameters("mix_forward", torch.float32, CPU)["BLOCK_P"] != 64


def test_importing_the_operators_does_not_define_kernels() -> None:
    code = "import sys, dyhead_kernels; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = [name for name in done.stdout.split() if name.startswith("dyhead_kernels.")]
    assert "dyhead_kernels.dyhead_block.op" in own
    assert not [name for name in own if name.endswith((".triton", "kernels", ".launching", ".columns"))]


def test_a_batch_too_large_for_a_launch_is_named() -> None:
    with pytest.raises(ValueError, match="a batch of 70000 is more than a launch can hold, expected 65535"):
        launching.launch(None, (1, 1, 70_000), torch.zeros(1))


def test_tables_are_not_made_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="run the operator once before, forward and backward"):
        BlockTables(Layout(SHAPES), "flat").levels.tables(4, 4, torch.device("cuda"))


def test_tables_for_an_architecture_lie_over_the_defaults() -> None:
    """Every shipped table is whole, and has no entry that the kernels do not know."""
    for path in tuning.FOLDER.glob("*.json"):
        table = tuning.load_table(path.stem)
        assert table.keys() == tuning.load_table(tuning.DEFAULT).keys()
    assert tuning.architecture_table("sm_90") == "sm_90"
    assert tuning.architecture_table("sm_89") == tuning.DEFAULT
