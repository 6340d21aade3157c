"""Names of splits, which become names of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyzoo.data import list_splits
from dyzoo.data.formats.splits import check_split_name
from dyzoo.errors import DatasetError
from tests.data.data_builders import write_coco, write_lines, write_picture


@pytest.mark.parametrize("name", ["train", "val2017", "bccd_val", "fold 1", "a.b", "Prüfung", "学習", "x" * 100])
def test_plain_names_of_splits(name: str) -> None:
    assert check_split_name(name, Path("obj.data")) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", " ", "/abs/victim", "../../x", "a/b", "a\\b", "..\\x", "C:", "C:\\x", "\\\\host\\share"),
        *("a\0", "a\nb", "a\x1b[2J", "a\x9b", "a\u2028", "\ud800", ".hidden", "a ", "a*", "x" * 101, "ü" * 51),
    ],
)
def test_a_split_that_is_no_plain_name_is_refused_on_one_line(name: str) -> None:
    with pytest.raises(DatasetError, match=r"obj\.data: a split is called .*, expected a plain file name") as caught:
        check_split_name(name, Path("obj.data"))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_the_check_stands_where_all_formats_pass(tmp_path: Path) -> None:
    write_picture(tmp_path / "yolo" / "a.jpg")
    write_lines(tmp_path / "yolo" / "obj.names", "cat")
    write_lines(tmp_path / "yolo" / "obj.data", "names = obj.names", "/abs/victim = a.jpg")
    (write_coco(tmp_path / "coco") / "annotations" / "instances_train.json").rename(
        tmp_path / "coco" / "annotations" / "instances_...json"
    )
    for folder in (tmp_path / "yolo", tmp_path / "coco"):
        with pytest.raises(DatasetError, match="a split is called"):
            list_splits(folder)
