"""The command `python -m dyhead_kernels.static`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import groupby

from ..backends import kernels_are_interpreted
from . import __doc__ as description
from .cards import CARDS
from .jobs import DTYPES, TARGETS
from .model import LIMITS, Prediction, model, totals_us
from .resources import Resources, survey


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tables, or JSON with --json or --loops."""
    parser = argparse.ArgumentParser(prog="python -m dyhead_kernels.static", description=description)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=DTYPES)
    parser.add_argument("--channels", nargs="+", type=int, default=[256])
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument(
        "--loops",
        action="store_true",
        help="instructions of innermost loops, as in tests/kernels/loop_counts.json",
    )
    parser.add_argument("--model", action="store_true", help="the time model instead: what bounds each launch")
    parser.add_argument("--card", nargs="+", default=["H100"], choices=CARDS, help="cards of the time model")
    options = parser.parse_args(arguments)
    if kernels_are_interpreted():
        sys.exit("error: TRITON_INTERPRET is 1, so there is nothing to compile: unset it")
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    if options.model:
        with ProcessPoolExecutor(options.workers) as pool:
            found = [each for width in options.channels for each in model(options.dtype, width, options.card, pool)]
        print(
            "\n".join(json.dumps({**asdict(each), "bound": each.bound}) for each in found)
            if options.json
            else tables(found)
        )
        return
    rows = survey(options.dtype, options.channels, options.target, options.workers)
    if options.loops:
        print(_loops(list(rows)))
    elif options.json:
        for row in rows:
            print(json.dumps(asdict(row)), flush=True)
    else:
        _print_resources(rows)


def _print_resources(rows: Iterable[Resources]) -> None:
    print("| kernel | dtype | C | target | warps | registers | spill B | shared KiB | programs | matrix | loops |")
    print("|---|---|---:|---|---:|---:|---:|---:|---:|---|---|")
    for row in rows:
        print(
            f"| {row.kernel} | {row.dtype} | {row.channels} | {row.target} | {row.warps} | {row.registers} | "
            f"{row.spill_bytes} | {row.shared_bytes / 1024:.0f} | {row.programs} | {row.matrix} | "
            f"{_listed(row.loops)} |",
            flush=True,
        )


def _listed(loops: Sequence[int]) -> str:
    return ", ".join(map(str, loops))


def _loops(rows: Sequence[Resources]) -> str:
    """JSON: the version of Triton, and by target and kernel the instructions of each innermost loop."""
    import triton

    found: dict[str, dict[str, list[list[int]]]] = {}
    for row in rows:
        if row.loops:
            found.setdefault(row.target, {}).setdefault(f"{row.kernel}, {row.dtype}, {row.channels}", []).append(
                list(row.loops)
            )
    targets = []
    for target, kernels in found.items():
        lines = [f"      {json.dumps(name)}: {json.dumps(loops)}" for name, loops in sorted(kernels.items())]
        targets.append(f"    {json.dumps(target)}: {{\n" + ",\n".join(lines) + "\n    }")
    body = ",\n".join(targets)
    return f'{{\n  "triton": {json.dumps(triton.__version__)},\n  "loops": {{\n{body}\n  }}\n}}'


def tables(found: Sequence[Prediction]) -> str:
    """A table of every card, dtype and width, and its totals."""
    parts = []
    for (card, dtype, channels), members in groupby(found, lambda each: (each.card, each.dtype, each.channels)):
        own = list(members)
        lines = [
            f"{card}, {dtype}, {channels} channels, one image of 800x1344; microseconds in which each limit allows it:",
            "",
            "| launch | pass | memory MB | L2 MB | atomics MB | tensor GFLOP | CUDA GFLOP | loops | instructions "
            f"| programs | resident | waves | {' | '.join(LIMITS)} | predicted us | bound by |",
            "|---|---|" + "---:|" * 5 + "---|" + "---:|" * (5 + len(LIMITS)) + "---|",
            *map(_model_line, own),
            "",
            "; ".join(f"{name} {us:.0f} us" for name, us in totals_us(own).items()) + ".",
        ]
        if unknown := [each.launch for each in own if not each.formula]:
            lines.append(f"No byte formula in static/traffic.py: {', '.join(unknown)}; their L2 bytes are too few.")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _model_line(each: Prediction) -> str:
    moved = (each.memory_bytes / 1e6, each.l2_bytes / 1e6, each.atomic_bytes / 1e6)
    cells = [
        *(each.launch, each.pass_),
        *(f"{number:.1f}" for number in (*moved, each.matrix_flop / 1e9, each.cuda_flop / 1e9)),
        _listed(each.loops),
        *(f"{number:.0f}" for number in (each.instructions, each.programs, each.resident, each.waves)),
        *(f"{each.limits_us[name]:.1f}" for name in LIMITS),
        f"{each.us:.1f}",
        each.bound,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
