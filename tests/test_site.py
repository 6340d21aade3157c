"""The documentation as a site: whole, its links and anchors there, readable from disk without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from docs.site import api, models, places
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.zoo.catalog import checkpoints
from tests.demo.browsing import visiting

ROOT = Path(__file__).parents[1]
FETCHING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
NOT_FROM_DISK = "404.html"  # for servers, which show it at any address: its links begin at their top


class PageReader(HTMLParser):
    """Links of a page, what it loads, and the places in it that links can lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(filter(None, (values.get("id"), values.get("name"))))
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        if tag in FETCHING and (address := values.get(FETCHING[tag])):
            self.loads.append(address)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as CONTRIBUTING says; a warning is an error."""
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml", "nbformat"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'dyzoo[docs]'")
    folder = tmp_path_factory.mktemp("built site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(built: Path) -> dict[Path, PageReader]:
    """Every page of the site, read."""
    found = {}
    for path in sorted(built.rglob("*.html")):
        if path.name != NOT_FROM_DISK:
            found[path] = PageReader()
            found[path].feed(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_every_link_leads_to_a_file_and_a_place_in_it(pages: dict[Path, PageReader]) -> None:
    internal = 0
    for page, reader in pages.items():
        for link in [*reader.links, *reader.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{page.name}: {link}"
                internal += 1
    assert internal > len(pages)


@pytest.mark.slow
def test_pages_and_styles_load_nothing_from_elsewhere(built: Path, pages: dict[Path, PageReader]) -> None:
    for page, reader in pages.items():
        for address in reader.loads:
            parts = urlsplit(address)
            assert not parts.netloc, f"{page.name}: {address}"
            assert parts.scheme in ("", "data"), f"{page.name}: {address}"
    styles = list(built.rglob("*.css"))
    assert styles
    for path in styles:
        for address in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", path.read_text(encoding="utf-8")):
            assert not urlsplit(address).netloc, f"{path.name}: {address}"


@pytest.mark.slow
def test_all_of_the_documentation_is_there(built: Path) -> None:
    for page in [*(ROOT / "docs").rglob("*.md"), *map(ROOT.joinpath, places.TOP_PAGES)]:
        path = built / places.site_path(PurePosixPath(page.relative_to(ROOT)))
        assert path.with_suffix(".html").is_file(), page
    for notebook in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        text = (built / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert f'href="{notebook.name}"' in text
        assert "arithmatex" not in text
    assert "<math " in (built / "notebooks" / "attentions.html").read_text(encoding="utf-8")
    for package in api.PACKAGES:
        text = (built / "api" / f"{package}.html").read_text(encoding="utf-8")
        for name in api.public_names(package):
            assert f'id="{package}.{name}"' in text
    text = (built / "models.html").read_text(encoding="utf-8")
    for name in [*ARCHITECTURES, *checkpoints()]:
        assert name in text


@pytest.mark.slow
def test_remarks_to_the_tests_are_not_seen(built: Path, pages: dict[Path, PageReader]) -> None:
    assert "<!-- not run: " in (ROOT / "README.md").read_text(encoding="utf-8")
    for page in pages:
        assert "not run: " not in page.read_text(encoding="utf-8"), page.name


@pytest.mark.slow
def test_the_search_finds_from_disk(built: Path, chromium: Any) -> None:
    from playwright.sync_api import expect

    with visiting(chromium, (built / "index.html").as_uri()) as visit:
        visit.page.locator("input.md-search__input").press_sequentially("modulated_deform_conv2d")
        expect(visit.page.locator(".md-search-result__link").first).to_be_visible(timeout=60_000)
        found = visit.page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
        assert any("dyhead_kernels.html" in address for address in found)
        assert visit.faults == []
        assert all(address.startswith(("file:", "data:", "blob:", "about:")) for address in visit.requests)


def test_models_of_the_page_are_those_of_the_catalogue() -> None:
    (text,) = models.pages().values()
    rows = re.findall(r"^\| \[`(\w+)`\]", text, re.MULTILINE)
    assert rows == list(ARCHITECTURES)
    assert "| 42.4 | microsoft/DynamicHead, COCO val | `.coco` |" in text


@pytest.mark.parametrize("package", api.PACKAGES)
def test_every_package_has_public_names(package: str) -> None:
    names = api.public_names(package)
    assert len(names) == len(set(names)) > 0
    assert all(name.isidentifier() for name in names)


def test_names_of_the_package_are_those_that_it_gives() -> None:
    import dyzoo
    import dyzoo.data

    assert {*api.public_names("dyzoo"), "__version__"} == set(dyzoo.__all__)
    assert set(api.public_names("dyzoo.data")) == set(dyzoo.data.__all__)


KNOWN = {"index.md", "predicting.md", "contributing.md", "images/a.jpg", "benchmarks/NOTES.md", "notebooks/x.md"}


def links_of(page: str, *links: str) -> Iterator[str]:
    for link in links:
        yield places.relink(f"[a]({link})", page, KNOWN).removeprefix("[a](").removesuffix(")")


def test_links_of_the_repository_lead_through_the_site() -> None:
    assert list(links_of("index.md", "docs/predicting.md#why", "docs/images/a.jpg", "CONTRIBUTING.md")) == [
        "predicting.md#why", "images/a.jpg", "contributing.md",
    ]  # fmt: skip
    assert list(links_of("predicting.md", "../README.md", "../benchmarks/NOTES.md", "images/a.jpg#b")) == [
        "index.md", "benchmarks/NOTES.md", "images/a.jpg#b",
    ]  # fmt: skip
    assert list(links_of("benchmarks/NOTES.md", "../docs/predicting.md")) == ["../predicting.md"]
    assert list(links_of("predicting.md", "notebooks/x.ipynb")) == ["notebooks/x.md"]
    assert list(links_of("notebooks/x.md", "../predicting.md#why")) == ["../predicting.md#why"]


def test_other_links_and_fenced_blocks_stay_as_they_are() -> None:
    others = ["https://a.org/docs/predicting.md", "#why", "absent.md", "../../outside.md", "mailto:a@b.c"]
    assert list(links_of("index.md", *others)) == others
    fenced = "```md\n[a](docs/predicting.md)\n```\n"
    assert places.relink(fenced + "[a](docs/predicting.md)", "index.md", KNOWN) == fenced + "[a](predicting.md)"


def test_what_links_lead_to_is_brought_along_but_nothing_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "repository"
    (root / "docs").mkdir(parents=True)
    (tmp_path / "secret.md").write_text("no")
    for page in places.TOP_PAGES:
        (root / page).write_text("")
    (root / "docs/a.md").write_text(f"[b](../b.md) [s](../../secret.md) [t]({tmp_path}/secret.md) [n](none.md)")
    (root / "b.md").write_text("[c](c.png) [a](docs/a.md)")
    (root / "c.png").write_bytes(b"")
    monkeypatch.setattr(places, "ROOT", root)
    found = places.reached([PurePosixPath("docs/a.md")])
    assert sorted(map(str, found)) == sorted([*places.TOP_PAGES, "b.md", "c.png", "docs/a.md"])


def test_remarks_are_left_out_and_other_comments_are_not() -> None:
    text = "a\n\n<!-- not run: slow -->\n```sh\nx\n```\n<!-- kept -->\n"
    assert places.without_remarks(text) == "a\n\n```sh\nx\n```\n<!-- kept -->\n"
