"""The time model of the kernels: what is counted in disassembled code, what launches ask for, and what comes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("triton")

from dyhead_kernels.static import cards, jobs, traffic
from dyhead_kernels.static.__main__ import tables
from dyhead_kernels.static.disassembly import code_of
from dyhead_kernels.static.model import LIMITS, Prediction, predict
from dyhead_kernels.static.resources import Resources
from dyhead_kernels.static.traffic import Arguments

from tests.kernels.static_command import static

LISTING = """
 Function some_kernel:
  REG:40 STACK:0 SHARED:0
        /*0000*/                   S2R R77, SR_CTAID.Z ;                        /* 0x00000000004d7919 */
        /*0010*/              @!P5 BRA 0x0030 ;
        /*0020*/                   LDG.E.128 R64, desc[UR40][R84.64] ;
        /*0030*/                   LDG.E R64, desc[UR40][R84.64] ;
        /*0040*/                   FFMA R1, R2, R3, R4 ;
        /*0050*/                   HGMMA.64x128x16.F32.BF16 R24, R112, gdesc[UR4], R24 ;
        /*0060*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0070*/               @P0 BRA 0x0040 ;
        /*0080*/                   HMMA.1688.F32.TF32 R4, R8, R10, R4 ;
        /*0090*/              @UP1 BRA.U 0x0030 ;
        /*00a0*/                   FADD R1, R2, R3 ;
        /*00b0*/                   EXIT ;
        /*00c0*/                   BRA 0xc0;
        /*00d0*/                   NOP;
"""


def test_loops_are_found_in_a_listing() -> None:
    code = code_of(LISTING)
    (outer,), (inner,) = code.loops, code.innermost
    assert outer.loops == (inner,)
    assert (code.own.instructions, outer.own.instructions, inner.own.instructions) == (6, 3, 4)
    assert code.once.instructions == 13
    assert inner.own.half_flop == 2 * 64 * 128 * 16 / 4
    assert (inner.own.cuda_flop, inner.own.barriers) == (64, 1)
    assert outer.own.tf32_flop == 2 * 16 * 8 * 8
    assert code.own.cuda_flop == 32
    assert code_of("").once.instructions == 0


def _listing(*lines: str) -> str:
    return "\n".join(f"        /*{16 * index:04x}*/                   {line} ;" for index, line in enumerate(lines))


def test_loads_that_are_waited_for_together_are_one_wait() -> None:
    loads = ("LDG.E.128 R4, desc[UR4][R2.64]", "LDG.E R8, desc[UR4][R2.64]")
    assert code_of(_listing(*loads, "FADD R9, R7, R8", "FADD R9, R8, R8")).own.loads == 1
    assert code_of(_listing(loads[0], "FADD R9, R7, R7", loads[1], "FADD R9, R8, R8")).own.loads == 2
    assert code_of(_listing(loads[0], "FADD R9, R3, R3", "EXIT")).own.loads == 0


def test_loads_behind_a_product_are_not_waited_for() -> None:
    product = "HMMA.16816.F32.BF16 R12, R16, R18, R12"
    assert code_of(_listing("LDG.E R8, desc[UR4][R2.64]", product, "FADD R9, R8, R8")).own.loads == 0
    assert code_of(_listing(product, "LDG.E R8, desc[UR4][R2.64]", "FADD R9, R8, R8")).own.loads == 1


def test_loads_for_the_next_iteration_are_waited_for_in_this_one() -> None:
    (loop,) = code_of(_listing("FADD R9, R8, R8", "LDG.E R8, desc[UR4][R2.64]", "BRA 0x0")).loops
    assert loop.own.loads == 1


def test_loads_before_a_loop_are_waited_for_once() -> None:
    code = code_of(_listing("LDG.E R8, desc[UR4][R2.64]", "FADD R9, R8, R8", "BRA 0x10"))
    (loop,) = code.loops
    assert (code.own.loads, loop.own.loads) == (1, 0)


def test_what_a_branch_leaves_out_is_told_apart() -> None:
    (loop,) = code_of(_listing("FADD R1, R1, R1", "BRA 0x30", "FADD R1, R1, R1", "FADD R1, R1, R1", "BRA 0x0")).loops
    assert (loop.own.instructions, loop.skipped.instructions) == (5, 1)


def test_every_launch_has_a_byte_formula() -> None:
    """A new kernel needs one in `dyhead_kernels/static/traffic.py`: what it moves through the L2 cache, its loops."""
    for deterministic in (False, True):
        for target in ("sm_80", "sm_90"):
            for each in jobs.recorded("bfloat16", 256, target, deterministic).values():
                for launch in each.launches:
                    assert traffic.asked(launch, 1e5) is not None, (
                        f"{launch.name}: traffic.FORMULAS needs one that fits it"
                    )


def test_what_launches_ask_for_adds_up() -> None:
    """By hand, for a block of 256 channels over 22,400 positions of which 5,600 are of the coarser levels."""
    passes = jobs.recorded("bfloat16", 256, "sm_90")
    launches = {launch.name: launch for each in passes.values() for launch in each.launches}
    positions = sum(height * width for height, width in jobs.SHAPES)
    convolved = positions + 2 * (positions - 100 * 168)
    forward = traffic.asked(launches["deform_conv_forward"], (256 - 64) * 1024)  # of an H100, less shared memory
    programs = launches["deform_conv_forward"].grid[0]
    assert forward is not None
    weights = programs * 9 * 256 * 256 * 2
    assert weights < forward.l2_bytes < 1.5 * weights
    assert programs * launches["deform_conv_forward"].constants["BLOCK_P"] >= convolved
    # In float32 a launch adds every corner to memory, and windows none.
    whole = jobs.recorded("float32", 256, "sm_90")["backward"].launches
    backward = traffic.asked(next(each for each in whole if each.name == "deform_conv_backward"), 1.5e5)
    assert backward is not None
    assert backward.atomic_bytes == convolved * 9 * 4 * 256 * 4
    mixed = Arguments(launches["mix_forward"]).memory_bytes
    assert mixed == pytest.approx((convolved + positions) * 256 * 2, rel=0.02)
    copies = passes["forward"].aside
    assert 2 * 3 * 256 * 256 * 9 * 2 in copies  # the weights, with taps before channels


@pytest.fixture(scope="module")
def predictions() -> list[dict[str, Any]]:
    done = static("--model", "--json", "--dtype", "bfloat16", "--card", "H100", "--workers", "1")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(each.pop("bound") in (*LIMITS, "launch") for each in found)
    return found


def test_the_model_counts_every_launch(predictions: list[dict[str, Any]]) -> None:
    launches = [launch.name for each in jobs.recorded("bfloat16", 256, "sm_90").values() for launch in each.launches]
    assert [each["launch"] for each in predictions if not each["launch"].startswith("(")] == launches
    for each in predictions:
        assert each["us"] > max(each["limits_us"].values())
        assert list(each["limits_us"]) == list(LIMITS)
        assert each["formula"]
    # What the convolution has to multiply, and at most half as much again for tiles' ends.
    for name in ("deform_conv_forward", "deform_conv_backward", "deform_conv_weight_backward"):
        flop = sum(each["matrix_flop"] for each in predictions if each["launch"] == name)  # each stride may be one
        assert 39.6e9 <= flop <= 1.5 * 39.6e9, name


def test_a_kernel_without_a_formula_is_counted_by_its_tensors() -> None:
    launch = jobs.recorded("bfloat16", 256, "sm_90")["forward"].launches[-1]
    renamed = launch._replace(kernel=_Renamed(launch.kernel))
    resources = Resources("unknown", "bfloat16", 256, "sm_90", 4, 40, 0, 0, 8, "", (4,))
    found = predict(renamed, resources, code_of(LISTING), "forward", "H100")
    assert not found.formula
    assert found.l2_bytes == found.memory_bytes == Arguments(launch).memory_bytes
    assert found.us > 0


def test_a_formula_that_no_longer_fits_its_kernel_counts_as_none() -> None:
    launch = jobs.recorded("bfloat16", 256, "sm_90")["forward"].launches[-1]
    assert traffic.asked(launch, 1e5) is not None
    constants = {name: value for name, value in launch.constants.items() if name != "BLOCK_C"}
    assert traffic.asked(launch._replace(constants=constants), 1e5) is None


class _Renamed:
    def __init__(self, kernel: Any) -> None:
        self.arg_names, self.fn = kernel.arg_names, self
        self.__name__ = "_unknown_kernel"


def test_cards_are_found_by_the_names_that_pytorch_gives() -> None:
    assert cards.card_of("NVIDIA H100 80GB HBM3") == "H100"
    assert cards.card_of("NVIDIA L4") == "L4"
    assert cards.card_of("NVIDIA L40S") is None
    assert cards.card_of("NVIDIA H100 PCIe") is None  # fewer multiprocessors, slower memory
    assert {card.target for card in cards.CARDS.values()} <= set(jobs.TARGETS)


def test_the_table_is_markdown(predictions: list[dict[str, Any]]) -> None:
    lines = tables([Prediction(**each) for each in predictions]).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert lines[-1].startswith("block forward ")
    first = predictions[0]
    unknown = tables([Prediction(**{**first, "formula": False})]).splitlines()
    assert unknown[-1].startswith(f"No byte formula in static/traffic.py: {first['launch']};")
