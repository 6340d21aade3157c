"""The paper's ablation as a command: what is trained, once each, and what the tables say of it."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import pytest

from benchmarks.ablation import paper, rows, session
from benchmarks.ablation.plan import Budget, Configuration, Run, configurations, runs
from benchmarks.ablation.rows import Row
from benchmarks.ablation.running import Task, run_all
from benchmarks.ablation.session import AblationError
from benchmarks.ablation.table import difference, effects, scatter, tables
from benchmarks.command import main
from dyzoo.cli import run as run_dyzoo
from dyzoo.config import TrainConfig
from dyzoo.errors import DyzooError
from tests.benchmarks import scripted_training
from tests.benchmarks.scripted_training import write_result

BUDGET = Budget(Path("DIR"), "dyhead_atss_resnet10t", epochs=2, batch_size=4, size_px=64, further=("--lr=0.002",))
DEPTHS = (0, 1, 2)
RUNS = 10  # no blocks, eight choices in two blocks, of which all three is a depth too, and one block


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """An ablation whose trainings are scripted, in `tmp_path`."""
    command = Run.command

    def script(run: Run, budget: Budget) -> list[str]:
        return [sys.executable, scripted_training.__file__, *command(run, budget)[4:]]

    monkeypatch.setattr(Run, "command", script)

    def call(budget: Budget = BUDGET, seeds: int = 1, dry_run: bool = False, jobs: int = 4) -> int:
        return session.run(budget, tmp_path, seeds, None, DEPTHS, jobs, dry_run, say=lambda line: None)

    return call


def calls(out: Path) -> list[str]:
    path = out / "calls.txt"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def test_every_row_of_both_tables_is_trained_once() -> None:
    found = configurations(2, (0, 1, 2, 4, 6))
    assert len(found) == len(set(found)) == len({each.name for each in found}) == 12
    assert {(each.scale, each.spatial, each.task) for each in found if each.blocks == 2} == set(paper.ATTENTIONS)
    assert {each.blocks for each in found if len(each.attentions) == 3} == {0, 1, 2, 4, 6}
    names = [(run.configuration.name, run.seed) for run in runs(found, 2, Path("out"))]
    assert [seed for _, seed in names] == [0] * 12 + [1] * 12  # a whole table before the next seed


def test_the_paper_s_tables_agree_where_they_meet() -> None:
    assert paper.ATTENTIONS[False, False, False] == paper.DEPTHS[0]
    assert paper.ATTENTIONS[True, True, True] == paper.DEPTHS[6] == max(paper.ATTENTIONS.values())


def test_a_command_trains_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[TrainConfig] = []

    def note(config: TrainConfig) -> None:
        given.append(config)
        raise DyzooError("noted")

    monkeypatch.setattr("dyzoo.training.train", note)
    weights = tmp_path / "b.safetensors"
    budget = replace(BUDGET, form="tensor", backbone="resnet18", backbone_weights=weights, device="cpu")
    for run in runs(configurations(2, DEPTHS), 2, tmp_path):
        assert run_dyzoo(run.command(budget)[3:]) == 1
        config, own = given.pop(), run.configuration
        wanted = {
            **{"data": Path("DIR"), "model": BUDGET.model, "form": "tensor", "epochs": 2, "batch_size": 4},
            **{"size_px": 64, "lr": 0.002, "backbone": "resnet18", "backbone_weights": weights, "device": "cpu"},
            **{"blocks": own.blocks, "attentions": ",".join(own.attentions) or "none", "seed": run.seed},
            **{"out": run.folder, "resume": False, "workers": 0, "patience": None, "average_last": 0},
        }
        assert {name: getattr(config, name) for name in wanted} == wanted
        assert config.validate_every > 2, "only the last epoch is evaluated"


def test_what_is_complete_is_never_trained_again(scripted: Callable[..., int], tmp_path: Path) -> None:
    assert scripted(dry_run=True) == 0
    assert not list(tmp_path.iterdir())
    assert scripted() == 0
    first = calls(tmp_path)
    assert len(first) == len(set(first)) == RUNS
    assert all(" new " in call for call in first)
    assert scripted() == 0
    assert calls(tmp_path) == first
    assert scripted(seeds=2) == 0
    assert len(calls(tmp_path)) == 2 * len(first)
    found = list(csv.DictReader((tmp_path / rows.CSV_NAME).open()))
    assert {(row["configuration"], row["seed"]) for row in found} == {
        (each.name, seed) for each in configurations(2, DEPTHS) for seed in "01"
    }
    page = (tmp_path / session.PAGE_NAME).read_text()
    assert "| 2 | 20.5 ± 0.7 |" in page
    assert page.startswith(
        "`dyzoo bench ablation --data=DIR --model=dyhead_atss_resnet10t --epochs=2 --batch-size=4 --size=64 --seeds=2 "
        "--blocks=2 --depths=0,1,2 -- --lr=0.002`\n"
    )


def test_what_was_interrupted_goes_on_and_what_is_damaged_is_done_again(
    scripted: Callable[..., int], tmp_path: Path
) -> None:
    scripted()
    before = len(calls(tmp_path))
    interrupted, damaged = tmp_path / "1-blocks" / "seed-0", tmp_path / "2-blocks-none" / "seed-0"
    (interrupted / "evaluation" / "metrics.json").unlink()
    (interrupted / "checkpoints").mkdir()
    (interrupted / "checkpoints" / "step_00000003.pt").touch()
    (damaged / "evaluation" / "metrics.json").write_text('{"metrics": ')
    assert scripted() == 0
    assert len(calls(tmp_path)) == before + 2
    assert [call for call in calls(tmp_path) if " resume " in call] == ["1-blocks 0 resume 1"]


def test_a_run_that_fails_stops_no_other(scripted: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "fail-2-blocks-scale").touch()
    said: list[str] = []
    assert session.run(BUDGET, tmp_path, 1, None, DEPTHS, 3, False, say=said.append) == 1
    failed = next(line for line in said if line.startswith("failed: "))
    assert failed.startswith("failed: 2-blocks-scale, seed 0: exit code 1: error: it went wrong")
    assert len(rows.complete(tmp_path)) == RUNS - 1
    (tmp_path / "fail-2-blocks-scale").unlink()
    assert scripted() == 0
    assert len(rows.complete(tmp_path)) == RUNS


def test_other_settings_are_refused_in_the_same_folder(scripted: Callable[..., int], tmp_path: Path) -> None:
    scripted()
    with pytest.raises(AblationError, match="holds runs with epochs 2, now it is 3"):
        scripted(replace(BUDGET, epochs=3))
    (tmp_path / session.BUDGET_NAME).write_text("[")
    with pytest.raises(AblationError, match="cannot be read"):
        scripted()


def test_wrong_options_are_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["ablation", "--data=nowhere", f"--out={tmp_path}", "--jobs=1", "--", "--learning=1"]
    assert main(arguments) == 1
    assert "No such option: --learning" in capfd.readouterr().err
    assert main(["ablation", "--data=nowhere", "--depths=1,x"]) == 2
    assert main(["ablation", "--data=nowhere", "--model=nothing", "--dry-run"]) == 1
    assert "did you mean" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["evaluation/metrics.json", "train.json", "run.json", "best/config.json"])
def test_a_run_with_a_damaged_file_is_not_complete(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "2-blocks" / "seed-0"
    write_result(folder, 0.5, 2, "scale,spatial,task", 0)
    assert rows.read(folder) is not None
    whole = (folder / name).read_text()
    for text in ("", "[]", "null", "[" * 100_000, whole[:-9], whole.replace("1002", "1e999"), "\udcff"):
        (folder / name).write_text(text, errors="surrogateescape")
        if text != whole:
            assert rows.read(folder) is None, text[:20]
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert rows.read(folder) is None


def task(name: str, code: str, folder: Path) -> Task:
    return Task(name, (sys.executable, "-c", code), folder / f"{name}.log")


def test_no_more_run_at_once_than_asked_for(tmp_path: Path) -> None:
    mark = (
        f"import pathlib, time, uuid; folder = pathlib.Path({str(tmp_path)!r}); own = folder / f'{{uuid.uuid4()}}.on'"
    )
    code = f"{mark}; own.touch(); print(len(list(folder.glob('*.on')))); time.sleep(0.5); own.unlink()"
    ended: list[str] = []
    tasks = [task(str(index), code, tmp_path) for index in range(5)]
    run_all(tasks, 2, 1, lambda task, code, seconds: ended.append(f"{task.name} {code}"))
    assert sorted(ended) == [f"{index} 0" for index in range(5)]
    assert {each.log.read_text().strip() for each in tasks} <= {"1", "2"}


def test_those_under_way_are_asked_to_save_when_it_stops(tmp_path: Path) -> None:
    handler = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)))"
    began = tmp_path / "began"
    slow = task("slow", f"{handler}; open({str(began)!r}, 'w').close(); time.sleep(600)", tmp_path)
    wait = f"import os, time\nwhile not os.path.exists({str(began)!r}): time.sleep(0.05)"

    def stop(task: Task, code: int, seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([slow, task("quick", wait, tmp_path)], 2, 1, stop)
    assert slow.log.read_text() == "saved\n"


def rows_of(values: dict[Configuration, list[float]], tmp_path: Path, **changes: int) -> list[Row]:
    for own, aps in values.items():
        for seed, ap in enumerate(aps):
            folder = tmp_path / own.name / f"seed-{seed}"
            write_result(folder, ap / 100, own.blocks, ",".join(own.attentions), seed)
    return rows.complete(tmp_path)


NONE, SCALE, ALL = Configuration(0), Configuration(2, True, False, False), Configuration(2)
VALUES = {NONE: [30.0, 32.0, 31.0], SCALE: [33.0, 33.0, 36.0], ALL: [40.0, 41.0, 45.0]}


def test_the_tables_have_means_deviations_and_differences(tmp_path: Path) -> None:
    page = tables(rows_of(VALUES, tmp_path), 2, (0, 2, 6))
    lines = page.splitlines()
    assert "| none | none | none | 0 | 31.0 ± 1.0 | 3 |  | -11.0 ± 1.6 | 1,000 | 39.0 | +0.0 |" in lines
    assert "| yes | - | - | 2 | 34.0 ± 1.7 | 3 | +3.0 ± 1.2 | -8.0 ± 1.8 | 1,002 | 39.9 | +0.9 |" in lines
    assert "| yes | yes | yes | 2 | 42.0 ± 2.6 | 3 | +11.0 ± 1.6 |  | 1,002 | 42.6 | +3.6 |" in lines
    assert "| - | - | - | 2 |  | 0 |  |  |  |  |  |" in lines, "not in the paper, and not trained yet"
    assert "| 6 |  | 0 |  |  |  | 42.6 | +3.6 |" in lines
    assert "AP to 2 blocks" not in page
    assert "| to 2 blocks |" in page
    assert "seeds 0, 1, 2" in page
    assert "Not the same" not in page


def test_the_scatter_is_that_of_the_seeds_alone(tmp_path: Path) -> None:
    found = {own: [row for row in rows_of(VALUES, tmp_path) if row.configuration == own.name] for own in VALUES}
    pooled = (sum(stdev(values) ** 2 for values in VALUES.values()) / len(VALUES)) ** 0.5
    assert scatter(found) == pytest.approx(pooled)
    assert difference(found[ALL], found[NONE]) == pytest.approx((11.0, ((1 + 7) / 3) ** 0.5))
    least = 2 * pooled * (2 / 3) ** 0.5
    assert f"less than {least:.1f} apart" in tables(rows.complete(tmp_path), 2, (0,))


def test_an_attention_is_judged_by_all_pairs_that_differ_in_it(tmp_path: Path) -> None:
    """Here task adds 4, and 2 more where spatial is on; spatial takes 1; scale does nothing."""
    values = {
        own: [30.0 + 4 * own.task - own.spatial + 2 * (own.task and own.spatial)]
        for own in (Configuration(2, *switches) for switches in paper.ATTENTIONS)
    }
    found: dict[Configuration, list[Row]] = {}
    for row in rows_of({NONE: [20.0], **values}, tmp_path):
        found.setdefault(Configuration(row.blocks, row.scale, row.spatial, row.task), []).append(row)
    added = {name: sorted(each) for name, each in effects(found, 2).items()}
    assert added == {"scale": [0, 0, 0, 0], "spatial": [-1, -1, 1, 1], "task": [4, 4, 6, 6]}
    page = tables(rows.complete(tmp_path), 2, (0,))
    assert "scale +0.0 ± 0.0 (4 pairs), spatial +0.0 ± 0.6 (4 pairs), task +5.0 ± 0.6 (4 pairs)." in page


def test_one_run_of_each_says_nothing_of_chance(tmp_path: Path) -> None:
    page = tables(rows_of({NONE: [30.0], ALL: [40.0]}, tmp_path), 2, (0,))
    assert "| 0 | 30.0 | 1 |" in page
    assert "give more --seeds" in page


def test_settings_that_differ_are_said(tmp_path: Path) -> None:
    found = rows_of(VALUES, tmp_path)
    page = tables([replace(found[0], batch_size=2), *found[1:]], 2, (0,))
    assert "hard to compare: batch_size (2, 4)" in page


def test_a_split_without_objects_has_no_ap(tmp_path: Path) -> None:
    found = [replace(row, ap=None) for row in rows_of(VALUES, tmp_path)]
    assert "| none | none | none | 0 |  | 3 |" in tables(found, 2, (0,))


@pytest.mark.slow
def test_it_trains_and_goes_on(
    voc: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [Configuration(0), Configuration(1, False, True, False), Configuration(1)]
    monkeypatch.setattr(session, "configurations", lambda blocks, depths: some)
    arguments = [
        *("ablation", f"--data={voc}", f"--out={tmp_path}", "--no-pretrained-backbone", "--epochs=1", "--size=64"),
        *("--batch-size=3", "--blocks=1", "--depths=0", "--seeds=1", "--device=cpu", "--", "--lr=0.002"),
    ]
    assert main(arguments) == 0
    assert "3 runs: 0 complete, 3 to do, 0 of them begun" in capfd.readouterr().out
    learned = {row.configuration: row.parameters for row in rows.complete(tmp_path)}
    assert set(learned) == {each.name for each in some}
    assert learned["0-blocks"] < learned["1-blocks-spatial"] < learned["1-blocks"]
    (tmp_path / "1-blocks" / "seed-0" / "evaluation" / "metrics.json").unlink()
    assert main(arguments) == 0
    assert "3 runs: 2 complete, 1 to do, 1 of them begun" in capfd.readouterr().out
    assert len(rows.complete(tmp_path)) == 3
