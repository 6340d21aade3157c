"""An explanation as files of one folder."""

from __future__ import annotations

import json
from pathlib import Path

from dyzoo.explain.explanation import PANELS, Explanation
from dyzoo.explain.numbers import to_dict
from dyzoo.explain.page import page
from dyzoo.files import write_text
from dyzoo.images.drawing import save_picture

PAGE_NAME, NUMBERS_NAME = "explain.html", "explain.json"


def save(explanation: Explanation, folder: Path) -> list[Path]:
    """Write the files that `Explanation.save` names, each aside and then renamed; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / PAGE_NAME, folder / NUMBERS_NAME]
    write_text(paths[0], page(explanation))
    write_text(paths[1], json.dumps(to_dict(explanation)) + "\n")
    for kind in PANELS:
        if kind != "object" or explanation.detection is not None:
            paths.append(folder / f"{kind}.png")
            save_picture(explanation.panel(kind), paths[-1])
    return paths
