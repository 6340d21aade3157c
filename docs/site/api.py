"""Pages of the API, one for each public package: its public names with their docstrings, read and not imported."""

from __future__ import annotations

import ast
from pathlib import Path

from docs.site.places import ROOT

PACKAGES = (
    "dyzoo",
    "dyzoo.config",
    "dyzoo.data",
    "dyzoo.training",
    "dyzoo.evaluation",
    "dyzoo.explain",
    "dyzoo.export",
    "dyzoo.serving",
    "dyzoo.dyhead",
    "dyzoo.model.heads",
    "dyzoo.grounding",
    "dyzoo.checkpoints",
    "dyzoo.hub",
    "dyhead_kernels",
)


def page_of(package: str) -> str:
    """Path of a package's page in the site."""
    return f"api/{package}.md"


def pages() -> dict[str, str]:
    """Text of each page by its path."""
    return {page_of(package): _page(package) for package in PACKAGES}


def public_names(package: str) -> list[str]:
    """Names of a package's `__all__`; where that is computed or absent, those imported as themselves (`A as A`).

    Raises:
        ValueError: there are none.
    """
    tree = ast.parse(_source(package).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            try:
                return sorted(ast.literal_eval(node.value), key=str.lower)
            except ValueError:
                break
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names if alias.asname == alias.name}
    if not names:
        raise ValueError(f"{package} has no public names, expected __all__ or imports of the kind `A as A`")
    return sorted(names, key=str.lower)


def _source(package: str) -> Path:
    folder = ROOT / "kernels" if package.startswith("dyhead_kernels") else ROOT
    return folder.joinpath(*package.split("."), "__init__.py")


def _page(package: str) -> str:
    intro = ast.get_docstring(ast.parse(_source(package).read_text(encoding="utf-8"))) or ""
    names = [f"::: {package}.{name}\n" for name in public_names(package)]
    return "\n".join([f"# {package}\n", f"{intro}\n", *names])
