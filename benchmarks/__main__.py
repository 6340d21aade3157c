"""`python -m benchmarks`: measure, print a Markdown table, append the rows to `results/`."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from benchmarks import report, runner
from benchmarks.cases import CASES


def main(
    cases: Annotated[list[str] | None, typer.Argument(help=f"Some of {', '.join(CASES)}; all without.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each provider.")] = 5,
    save: Annotated[bool, typer.Option(help="Append the rows to benchmarks/results/.")] = True,
) -> None:
    """Time the attention chain against its alternatives on the CPU, taking turns in one run.

    \b
    Examples:
      python -m benchmarks
      python -m benchmarks convolution --rounds 30 --no-save
    """
    if unknown := sorted(set(cases or ()) - CASES.keys()):
        raise typer.BadParameter(f"{unknown[0]!r} is no case: there are {', '.join(CASES)}")
    device = torch.device("cpu")
    rows: list[runner.Row] = []
    baselines: dict[str, str] = {}
    for name in cases or CASES:
        case = CASES[name](device)
        baselines[case.op] = case.baseline
        rows += runner.measure(case, device, rounds)
    print(report.markdown(rows, baselines))
    print(f"\n{runner.device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32.")
    print("Nothing was timed on a GPU: only the CPU form of the operators is measured so far.")
    if save:
        print(f"Rows appended to {report.append(rows)}")


if __name__ == "__main__":
    typer.run(main)
