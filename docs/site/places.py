"""Paths in the repository and in the site, and links that work in both."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Set
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
TOP_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}

_FENCE = re.compile(r"^ *```", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
_REMARK = re.compile(r"^<!-- not run: .*? -->\n", re.MULTILINE)


def site_path(path: PurePosixPath) -> str:
    """Path in the site of a file of the repository: docs/ is the site's top, and notebooks are pages."""
    if str(path) in TOP_PAGES:
        return TOP_PAGES[str(path)]
    own = path.relative_to("docs") if path.parts[0] == "docs" else path
    return str(own.with_suffix(".md") if own.suffix == ".ipynb" else own)


def repository_path(path: str) -> PurePosixPath:
    """Path in the repository of a file of the site; a page that is made counts as one in docs/."""
    for source, target in TOP_PAGES.items():
        if target == path:
            return PurePosixPath(source)
    beside = not (ROOT / "docs" / path).exists() and (ROOT / path).exists()
    return PurePosixPath(path) if beside else PurePosixPath("docs", path)


def reached(paths: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """Files of the repository that the site has: the top pages, the given ones, and all that their links lead to."""
    found = dict.fromkeys([*map(PurePosixPath, TOP_PAGES), *paths])
    todo = list(found)
    while todo:
        page = todo.pop()
        if page.suffix != ".md":
            continue
        text = (ROOT / page).read_text(encoding="utf-8")
        links = [link for is_fence, part in _parts(text) if not is_fence for link in _LINK.findall(part)]
        for target in (_target(page, link) for link in links):
            is_inside = not target.is_absolute() and ".." not in target.parts
            if target not in found and is_inside and (ROOT / target).is_file():
                found[target] = None
                todo.append(target)
    return list(found)


def relink(markdown: str, site_page: str, known: Set[str]) -> str:
    """The text of a page, its links to files that the site has led through the site; the others stay as they are."""
    page = repository_path(site_page)

    def led(link: re.Match[str]) -> str:
        target = site_path(_target(page, link[0]))
        return posixpath.relpath(target, posixpath.dirname(site_page) or ".") if target in known else link[0]

    return "".join(part if is_fence else _LINK.sub(led, part) for is_fence, part in _parts(markdown))


def without_remarks(markdown: str) -> str:
    """The text without the lines that tell the tests why a block is not run."""
    return _REMARK.sub("", markdown)


def _target(page: PurePosixPath, link: str) -> PurePosixPath:
    return PurePosixPath(posixpath.normpath(page.parent / link))


def _parts(markdown: str) -> list[tuple[bool, str]]:
    """The text in pieces, each with whether it is a fenced block; a block's last fence begins the piece after it."""
    parts = []
    start, inside = 0, False
    for fence in _FENCE.finditer(markdown):
        parts.append((inside, markdown[start : fence.start()]))
        start, inside = fence.start(), not inside
    return [*parts, (inside, markdown[start:])]
