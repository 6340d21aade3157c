"""Events of `mkdocs build`: pages of the repository, and pages made of its sources, become one site."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parents[2]))  # MkDocs loads this file alone

from docs.site import api, formulas, measurements, models, notebooks, places


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give each package of the API its place in the navigation."""
    entries: list[Any] = config.nav or []
    for entry in entries:
        if "API" in entry:
            entry["API"] = [{package: api.page_of(package)} for package in api.PACKAGES]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that lie outside of docs/, and the pages that are made here."""
    made: dict[str, str | bytes] = {**api.pages(), **models.pages(), **measurements.pages()}
    for path in places.reached(PurePosixPath("docs", file.src_uri) for file in files):
        site_path = places.site_path(path)
        if path.suffix == ".ipynb":
            notebook = notebooks.read(places.ROOT / path)
            if config.extra["run_notebooks"]:
                notebooks.execute(notebook)
            made[site_path], pictures = notebooks.page(notebook, site_path)
            made.update(pictures)
        elif files.get_file_from_path(site_path) is None:
            files.append(File.generated(config, site_path, abs_src_path=str(places.ROOT / path)))
    for site_path, content in made.items():
        files.append(File.generated(config, site_path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out what is said to the tests, and lead links of the repository through the site."""
    known = {file.src_uri for file in files}
    return places.relink(places.without_remarks(markdown), page.file.src_uri, known)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the formulas."""
    return formulas.drawn(html)
