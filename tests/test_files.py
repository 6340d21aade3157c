import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dyzoo.files import read_regular, replacing, write_text


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail_half_way() -> None:
        with replacing(path) as aside:
            aside.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_target_is_untouched_until_the_write_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_a_file_has_the_users_permissions_whoever_writes_it(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with replacing(tmp_path / "model.safetensors") as aside:
        save_file({"a": torch.zeros(1)}, aside)
        aside.chmod(0o600)
    assert (tmp_path / "model.safetensors").stat().st_mode == plain.stat().st_mode


def test_only_regular_files_are_read_and_no_more_than_may_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="it has more than 4 bytes"):
        read_regular(path, 4)
    path.unlink()
    os.mkfifo(path)
    for other in (path, tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="it is no regular file"):
            read_regular(other, 5)
    assert read_regular(Path("/proc/kmsg"), 5) == b"", "opening it would wait for the kernel"
