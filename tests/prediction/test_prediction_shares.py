"""Processes divide a job, each with a journal of its own, and give what one process would have given."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dyzoo.errors import DyzooError
from dyzoo.images.sources.naming import list_sources
from dyzoo.prediction import FORMATS, JOURNAL_NAME, Written, predict_to_folder
from dyzoo.prediction.journal import Done, Journal
from dyzoo.prediction.shares import Listing, find_shards, join_shards, shard_name
from tests.prediction.stub_model import StubModel, write_pictures
from tests.process_groups import run_together

EMPTY: dict[str, Any] = {"time_s": None, "height_px": 4, "width_px": 6, "notes": [], "detections": []}


def write_journal(path: Path, *sources: str | tuple[str, int], **settings: Any) -> None:
    """A journal with a line for each picture, or for each frame of a film."""
    with Journal(path, settings, resume=False) as journal:
        for each in sources:
            source, frame = each if isinstance(each, tuple) else (each, None)
            stem = Path(source).stem if frame is None else f"{Path(source).stem}/{frame:06d}"
            journal.add({**EMPTY, "path": source, "source": source, "frame": frame}, stem, None)


def pictures_in(path: Path) -> list[Any]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["source"] if row["frame"] is None else (row["source"], row["frame"]) for row in found]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def order(*sources: str) -> dict[str, int]:
    return {source: place for place, source in enumerate(sources)}


def test_shards_join_in_the_order_of_the_sources(tmp_path: Path) -> None:
    write_journal(tmp_path / JOURNAL_NAME, "a", "gone", ("f", 0), "d")
    write_journal(tmp_path / shard_name(0, 2), "c", ("f", 1), ("f", 2))
    write_journal(tmp_path / shard_name(2, 3), "b", "e")
    join_shards(tmp_path, {}, order("a", "b", "c", "f", "d", "e"))
    assert pictures_in(tmp_path / JOURNAL_NAME) == ["a", "gone", "b", "c", ("f", 0), ("f", 1), ("f", 2), "d", "e"]
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL_NAME]


def test_pictures_in_two_shards_come_once_and_half_a_line_does_not(tmp_path: Path) -> None:
    """A process that was killed between joining and removing the shards has left both."""
    write_journal(tmp_path / JOURNAL_NAME, "a", ("f", 0), ("f", 1))
    write_journal(tmp_path / shard_name(0, 2), "a", ("f", 0), ("f", 1), ("f", 2))
    with (tmp_path / shard_name(0, 2)).open("a") as file:
        file.write('{"path": "b"')
    join_shards(tmp_path, {}, order("a", "f"))
    assert pictures_in(tmp_path / JOURNAL_NAME) == ["a", ("f", 0), ("f", 1), ("f", 2)]


BROKEN = {
    "other settings": ({"iou": 0.5}, r"0of2\.jsonl was made with iou 0\.5, not None"),
    "a stem outside": ({}, r"0of2\.jsonl line 2 is not of `dyzoo predict` \(its stem is no name of a file\)"),
}


@pytest.mark.parametrize(("settings", "words"), BROKEN.values(), ids=BROKEN)
def test_a_shard_of_something_else_is_named_and_nothing_is_lost(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    write_journal(tmp_path / JOURNAL_NAME, "b")
    shard = tmp_path / shard_name(0, 2)
    write_journal(shard, "a", **settings)
    with shard.open("a") as file:
        row = {**EMPTY, "path": "x", "source": "x", "frame": None, "stem": "../../up", "picture": None}
        file.write(json.dumps(row) + "\n")
    before = contents(tmp_path)
    with pytest.raises(DyzooError, match=words):
        join_shards(tmp_path, {}, order("a", "b"))
    assert contents(tmp_path) == before


def test_only_journals_of_processes_are_shards(tmp_path: Path) -> None:
    for name in ("detections.jsonl", "detections.of.jsonl", "detections.1of2.jsonl.bak", "detections.xof2.jsonl"):
        (tmp_path / name).touch()
    assert find_shards(tmp_path) == []
    (tmp_path / shard_name(11, 12)).touch()
    assert find_shards(tmp_path) == [tmp_path / "detections.11of12.jsonl"]


def write_zip(path: Path, *names: str) -> Path:
    (picture,) = write_pictures(path.parent, "x.png")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.write(picture, name)
    picture.unlink()
    return path


def test_shares_are_equal_in_pictures_and_archives_stay_whole(tmp_path: Path) -> None:
    big = write_zip(tmp_path / "big.zip", *(f"{number}.png" for number in range(5)))
    small = write_zip(tmp_path / "small.zip", "1.png", "2.png")
    paths = write_pictures(tmp_path, *(f"{name}.png" for name in "abcdefg"))
    listing = Listing(list_sources([*paths[:3], small, big, *paths[3:]]))
    shares = listing.divide(Done(), tmp_path / "out", 3)
    named = [[Path(str(source.source)).name for source in share.sources] for share in shares]
    assert named == [["big.zip"], ["c.png", "small.zip", "e.png", "g.png"], ["a.png", "b.png", "d.png", "f.png"]]
    assert [share.total for share in shares] == [5, 5, 4]


def test_stems_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    archives = [write_zip(tmp_path / f"{name}.zip", "a.png", "b.png") for name in "xy"]
    listing = Listing(list_sources([*archives, *write_pictures(tmp_path, "1/a.png", "2/a.png", "3/b.png")]))
    found = [
        {name: stem for share in listing.divide(Done(), tmp_path, count) for name, stem in share.stems.items()}
        for count in (1, 2, 5)
    ]
    assert found[0] == found[1] == found[2]
    assert sorted(found[0].values()) == ["a", "a_2", "a_3", "a_4", "b", "b_2", "b_3"]


def test_what_is_done_is_nobodys_share(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", "a.png", "b.png")
    (path,) = write_pictures(tmp_path, "c.png")
    listing = Listing(list_sources([archive, path]))
    done = Done({f"{archive}/a.png": "a", str(path): "c"})
    (share,) = listing.divide(done, tmp_path / "out", 1)
    assert ([source.source for source in share.sources], share.total, share.skipped) == ([str(archive)], 1, 1)
    done.stems[f"{archive}/b.png"] = "b"
    assert [share.sources for share in listing.divide(done, tmp_path / "out", 2)] == [[], []]


def predict_together(sources: Sequence[Path], out: Path, **options: Any) -> Written:
    return predict_to_folder(StubModel(), sources, out, formats=FORMATS, crops=True, together=True, **options)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    paths = write_pictures(tmp_path, "a.png", "sub/a.png", "b.png", "c.png")
    archive = write_zip(tmp_path / "x.zip", "a.png", "b.png")
    (tmp_path / "broken.png").write_text("nothing")
    return [tmp_path / "broken.png", *paths[:2], tmp_path / "y.film", archive, *paths[2:]]


@pytest.mark.parametrize(("count", "most"), [(2, 9), (3, 2)], ids=["2 processes", "more processes than sources"])
def test_processes_give_what_one_gives(tmp_path: Path, sources: list[Path], count: int, most: int) -> None:
    sources = sources[:most]
    alone = predict_to_folder(StubModel(), sources, tmp_path / "one", formats=FORMATS, crops=True)
    first, *others = run_together(tmp_path / "group", count, predict_together, sources, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert (first.images, first.failures) == (alone.images, alone.failures)
    assert all(other.files == {} for other in others)


def test_shards_of_any_number_of_processes_are_taken_up_again(tmp_path: Path, sources: list[Path]) -> None:
    out = tmp_path / "out"
    predict_to_folder(StubModel(), sources, tmp_path / "one", formats=FORMATS, crops=True)
    predict_to_folder(StubModel(), sources, out, formats=FORMATS, crops=True)
    lines = (out / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    (out / JOURNAL_NAME).unlink()
    (out / shard_name(1, 5)).write_bytes(b"".join(lines[2:4]))  # two frames of the film
    (out / shard_name(4, 5)).write_bytes(lines[1] + lines[6] + lines[7][:20])
    again = {"resume": True, "formats": FORMATS, "crops": True}
    before = contents(out)
    first, _ = run_together(tmp_path / "group", 2, resume_together, sources, out)
    # The stub's film is one that cannot be read again, like a stream: what is left of it goes into a second file.
    assert contents(out).pop("y_2.mp4")
    assert without_films(out) == without_films(tmp_path / "one")
    assert first.images == len(lines)
    for name in {*contents(out)} - {*before}:
        (out / name).unlink()
    (out / JOURNAL_NAME).unlink(missing_ok=True)
    for name, content in before.items():
        (out / name).write_bytes(content)
    predict_to_folder(StubModel(), sources, out, **again)
    assert without_films(out) == without_films(tmp_path / "one"), "one process takes them up as well"


def without_films(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if not name.endswith(".mp4")}


def resume_together(sources: Sequence[Path], out: Path) -> Written:
    return predict_together(sources, out, resume=True)


def test_a_new_run_begins_without_old_shards(tmp_path: Path, sources: list[Path]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_journal(out / shard_name(0, 2), "old", iou=0.1)
    written = predict_to_folder(StubModel(), sources[1:3], out)
    assert (written.images, find_shards(out)) == (2, [])


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path: Path, sources: list[Path]) -> None:
    from dyzoo.locks import RunLock

    with RunLock(tmp_path / "out") as lock:
        lock.take()
        with pytest.raises(DyzooError, match="out is in use by another run"):
            predict_to_folder(StubModel(), sources, tmp_path / "out")


def lose_the_shard(sources: Sequence[Path], out: Path) -> str:
    """Each process writes to its own disk: that of the second is elsewhere."""
    from dyzoo.distributed import process_index

    try:
        predict_together(sources, out if process_index() == 0 else out.with_name("elsewhere"))
    except DyzooError as error:
        return str(error)
    return ""


def test_shards_on_other_disks_are_missed_and_joined_where_they_come_together(
    tmp_path: Path, sources: list[Path]
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    said, _ = run_together(tmp_path / "group", 2, lose_the_shard, sources, out)
    assert "detections.1of2.jsonl of process 1 is not here but on its own machine: copy all" in said
    for name, content in contents(elsewhere).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    predict_to_folder(StubModel(), sources, tmp_path / "one", formats=FORMATS, crops=True)
    predict_to_folder(StubModel(), sources, out, formats=FORMATS, crops=True, resume=True)
    assert contents(out) == contents(tmp_path / "one")
