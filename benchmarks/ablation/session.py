"""The command `ablation`: what is missing is trained, what is complete is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dyzoo.errors import DyzooError
from dyzoo.files import write_text
from dyzoo.locks import RunLock

from ..gpu_report.running import last_lines, reason
from ..options import cores
from . import rows as results
from .plan import Budget, Run, configurations, runs
from .running import Task, run_all
from .table import tables

BUDGET_NAME = "budget.json"
PAGE_NAME = "ablation.md"
OF_THE_MACHINE = ("data", "device")  # may change from call to call; other data shows in the rows
WRONG_OPTION = 2  # exit code of a command that cannot be parsed: every run would end so


class AblationError(DyzooError, ValueError):
    """An ablation that cannot begin, or go on as it began."""


def run(
    budget: Budget,
    out: Path,
    seeds: int,
    blocks: int | None,
    depths: Sequence[int],
    jobs: int | None,
    dry_run: bool,
    say: Callable[[str], None] = print,
) -> int:
    """Train what is missing, keep the rows, print the tables; the exit code is 1 if a run failed.

    Args:
        budget: the settings of all runs.
        out: folder of the runs, of `ablation.csv` and `ablation.md`.
        seeds: runs of each configuration, with the seeds 0, 1, ...
        blocks: those that attentions are switched off in; None: the architecture's.
        depths: numbers of blocks with all attentions.
        jobs: trainings side by side; None: one for each core.
        dry_run: nothing is trained or written; commands of what is missing are printed.

    Raises:
        AblationError: the folder holds an ablation of other settings.
        TrainingError: another process trains in it.
        UnknownModelError: there is no such architecture.
    """
    plan = Plan(budget.blocks if blocks is None else blocks, tuple(depths), out)
    all_runs = runs(configurations(plan.blocks, depths), seeds, out)
    _check_budget(budget, out)
    missing = [each for each in all_runs if results.read(each.folder) is None]
    begun = sum(each.is_begun for each in missing)
    say(f"{len(all_runs)} runs: {len(all_runs) - len(missing)} complete, {len(missing)} to do, {begun} of them begun")
    failures: list[str] = []
    if dry_run:
        for each in missing:
            say(each.shown(budget))
    else:
        with RunLock(out) as lock:
            lock.take()
            write_text(out / BUDGET_NAME, _text(budget))
            failures = _train(missing, budget, jobs or cores(), plan, say)
            plan.keep()
    say("\n" + plan.page() if results.complete(out) else "nothing is complete yet")
    for failure in failures:
        say(f"failed: {failure}")
    return int(bool(failures))


@dataclass(frozen=True)
class Plan:
    """The two tables that are wanted, and the folder that they are made from."""

    blocks: int
    depths: tuple[int, ...]
    out: Path

    def page(self) -> str:
        """Both tables of what is complete, one run or more."""
        return tables(results.complete(self.out), self.blocks, self.depths)

    def keep(self) -> None:
        """Write the rows and the tables of what is complete."""
        if rows := results.complete(self.out):
            results.write(rows, self.out / results.CSV_NAME)
            write_text(self.out / PAGE_NAME, self.page() + "\n")


def _train(missing: Sequence[Run], budget: Budget, jobs: int, plan: Plan, say: Callable[[str], None]) -> list[str]:
    """Train; rows and tables are written after each run. A line for each run that failed."""
    folders = {each.name: each.folder for each in missing}
    failures: list[str] = []

    def ended(task: Task, code: int, seconds: float) -> None:
        row = results.read(folders[task.name])
        if code or row is None:
            last = " ".join(last_lines(task.log, 1))
            if code == WRONG_OPTION:
                raise AblationError(f"dyzoo train refuses its options: {last}")
            failures.append(f"{task.name}: {reason(code) or 'it left no result'}: {last} (all of it: {task.log})")
            say(failures[-1])
            return
        plan.keep()
        say(f"{task.name}: AP {'-' if row.ap is None else f'{row.ap:.1f}'}, {seconds / 60:.1f} min")

    tasks = [Task(each.name, tuple(each.command(budget)), each.folder.with_suffix(".log")) for each in missing]
    run_all(tasks, jobs, max(cores() // jobs, 1), ended)
    return failures


def _text(budget: Budget) -> str:
    return json.dumps(
        {name: value for name, value in asdict(budget).items() if name not in OF_THE_MACHINE}, default=str
    )


def _check_budget(budget: Budget, out: Path) -> None:
    path = out / BUDGET_NAME
    if not path.exists():
        return
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AblationError(f"{path} cannot be read ({error}): choose another --out") from None
    for name, value in json.loads(_text(budget)).items():
        if known.get(name) != value:
            raise AblationError(
                f"{out} holds runs with {name} {known.get(name)}, now it is {value}: give the same settings to go on, "
                "or choose another --out"
            )
