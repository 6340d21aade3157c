"""The folder that `dyzoo demo --static` writes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from PIL import Image

import dyzoo
from dyzoo.cli import run
from dyzoo.demo import runtime, static_page
from dyzoo.demo.runtime.__main__ import main as make_runtime
from dyzoo.demo.static_page import MODEL_NAME, write_static_page
from dyzoo.errors import ExportError
from dyzoo.export import ExportOptions
from dyzoo.runtime import sessions
from dyzoo.zoo.names import DEFAULT_MODEL
from tests.model.narrow_detectors import narrow_detector


@pytest.mark.parametrize("name", runtime.NAMES)
def test_the_runtime_is_the_one_of_its_package(name: str) -> None:
    assert hashlib.sha256(runtime.read_file(name)).hexdigest() == runtime.origin()["sha256"][name]


def test_a_runtime_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (runtime.ORIGIN_NAME, runtime.MODULE_NAME):
        (tmp_path / name).write_bytes((runtime.FOLDER / name).read_bytes())
    (tmp_path / runtime.MODULE_NAME).open("ab").write(b" ")
    monkeypatch.setattr(runtime, "FOLDER", tmp_path)
    with pytest.raises(ExportError, match=r"is another file than origin\.json says: install dyzoo again"):
        runtime.read_file(runtime.MODULE_NAME)
    with pytest.raises(ExportError, match="cannot be read"):
        runtime.read_file(runtime.BINARY_NAME)


def test_the_runtimes_folder_is_made_from_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {name: f"content of {name}".encode() for name in runtime.NAMES}
    scripts = {f"dist/{name}": contents[name] for name in (runtime.MODULE_NAME, runtime.BINARY_NAME)}
    package, wheel = tmp_path / "package.tgz", tmp_path / "onnxruntime-9.8.7-cp311-any.whl"
    with tarfile.open(package, "w:gz") as archive:
        for name, content in {"package.json": b'{"version": "9.8.7"}', **scripts}.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    with zipfile.ZipFile(wheel, "w") as archive_of_wheel:
        for name in runtime.LICENCE_NAMES:
            archive_of_wheel.writestr(f"onnxruntime/{name}", contents[name])
    (tmp_path / "made").mkdir()
    monkeypatch.setattr(runtime, "FOLDER", tmp_path / "made")
    make_runtime(str(package), str(wheel))
    assert {name: runtime.read_file(name) for name in runtime.NAMES} == contents
    assert runtime.origin()["version"] == "9.8.7"
    with pytest.raises(SystemExit, match=r"another version .* expected onnxruntime 9\.8\.7"):
        make_runtime(str(package), str(tmp_path / "onnxruntime-1.0.0-cp311-any.whl"))


def test_every_file_of_the_page_names_its_own_server_alone() -> None:
    folder = Path(static_page.__file__).parent / "page"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://localhost:8000", "")
        assert "://" not in text, path
        assert "innerHTML" not in text, path


def assert_refused(capsys: pytest.CaptureFixture[str], arguments: list[object], *words: str) -> None:
    assert run([str(argument) for argument in ["demo", *arguments]]) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_a_folder_is_needed_and_nothing_in_it_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.html").write_text("mine")
    assert_refused(capsys, ["--static", tmp_path], str(tmp_path), "not empty")
    assert_refused(capsys, ["--static", tmp_path / "index.html"], "is a file")
    assert (tmp_path / "index.html").read_text() == "mine"


def test_a_detector_that_does_not_fit_is_refused_before_it_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(static_page, "MOST_MODEL_BYTES", 1_000_000)
    with pytest.raises(ExportError, match=r"takes \d+ MB, expected at most 1 for a browser"):
        write_static_page(narrow_detector(), tmp_path / "page", title="large")
    with pytest.raises(ExportError, match="needs a detector from pictures to detections"):
        write_static_page(narrow_detector(), tmp_path / "page", title="maps", options=ExportOptions(decode=False))
    assert not list(tmp_path.iterdir())


def test_what_is_not_installed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "find_spec", lambda name: None)
    assert_refused(capsys, ["--static", tmp_path / "page"], "onnxruntime not installed", "pip install 'dyzoo[onnx]'")
    assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_read_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    (tmp_path / "text.jpg").write_text("no picture")
    assert_refused(capsys, ["--static", tmp_path / "page", "--image", tmp_path / "text.jpg"], "text.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["text.jpg"]


@pytest.mark.slow
def test_the_folder_is_a_static_space(site: Path) -> None:
    text = (site / "sub folder" / "page" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["sdk"], head["title"], head["license"]) == ("static", "Blood cells", "mit")
    assert (site / "sub folder" / "page" / head["app_file"]).is_file()
    assert head["custom_headers"]["cross-origin-opener-policy"] == "same-origin"
    assert head["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"


@pytest.mark.slow
def test_an_exported_file_becomes_a_page_with_the_users_picture(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported, picture = site / "sub folder" / "page" / MODEL_NAME, tmp_path / "mine.jpg"
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    Image.new("RGB", (3000, 300), "green").save(picture, exif=exif)
    page = tmp_path / "page"
    title = "Mine: [cells]\n---\nsdk: docker"
    arguments = ["demo", "--static", page, "--model", exported, "--image", picture, "--title", title]
    assert run([str(argument) for argument in arguments]) == 0
    assert str(page) in capsys.readouterr().out
    assert (page / MODEL_NAME).read_bytes() == exported.read_bytes()
    assert b"where I live" not in (page / "sample.jpg").read_bytes()
    with Image.open(page / "sample.jpg") as sample:
        assert sample.size == (2048, 205)
    settings = json.loads((page / "detector.json").read_text(encoding="utf-8"))
    assert settings["labels"] == list(dyzoo.load(exported).labels)
    head = yaml.safe_load((page / "README.md").read_text(encoding="utf-8").split("\n---\n")[0])
    assert head["sdk"] == "static"
    assert "license" not in head


def test_without_deform_conv_in_onnxruntime_the_page_has_the_other_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime for Python 3.10 lacks it, and no file is written that was not compared."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(sessions, "WITH_DEFORM_CONV", (99, 0, 0))
    assert static_page.page_options().deform_conv == "grid-sample"
    monkeypatch.setattr(sessions, "WITH_DEFORM_CONV", (1, 0, 0))
    assert static_page.page_options().deform_conv == "node"


def test_licences_of_the_catalogue_are_known() -> None:
    assert static_page.catalogue_licence(DEFAULT_MODEL) == "mit"
    assert static_page.catalogue_licence("runs/mine") is None


def test_more_classes_than_colours_share_them() -> None:
    model = narrow_detector(labels=tuple(f"class {number}" for number in range(300)))
    settings = static_page._settings(model, "many", ExportOptions(), 1, {})
    assert len(settings["labels"]) == 300
    assert len(settings["colors"]) == len({color for color, _ in settings["colors"]}) == 256
