"""`Explanation`: what the attentions of a detector did to one picture, to look at and to keep."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dyzoo.errors import SettingError
from dyzoo.explain.numbers import to_dict
from dyzoo.explain.page import page
from dyzoo.explain.panels import draw_panel
from dyzoo.explain.parts import PANELS, Explained, Panel
from dyzoo.files import write_text
from dyzoo.images.drawing import save_picture

PAGE_NAME, NUMBERS_NAME = "explain.html", "explain.json"


@dataclass(frozen=True, eq=False)
class Explanation(Explained):
    """The way of one picture through a detector's attentions: the numbers that `Explained` names, in pictures."""

    def panel(self, kind: Panel = "maps", block: int | None = None, level: int | None = None) -> Image.Image:
        """One picture of the explanation.

        Args:
            kind: "maps", the maps of a block after each attention; "sampling", where the block samples for the place;
                "channels", what the dynamic ReLU does with each channel; "object", what made the detection.
            block, level: None for those of the explanation. Maps show all levels, the object's shares all blocks.

        Raises:
            SettingError: there is no such panel, block or level, or no detection to be explained.
        """
        if kind not in PANELS:
            raise SettingError(f"panel is {kind!r}, expected one of {', '.join(PANELS)}")
        if kind == "object" and self.detection is None:
            raise SettingError("nothing was found that could be explained: lower the threshold")
        return draw_panel(self, kind, *self.chosen(block, level))

    def to_dict(self) -> dict[str, Any]:
        """All numbers but those of the maps, as `explain.json` has them."""
        return to_dict(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the page `explain.html`, the numbers `explain.json` and a PNG of each panel; the paths, page first.

        The page is one file that needs nothing else and fetches nothing. Each file is written aside and renamed.

        Args:
            folder: made if it is not there; files of these names are replaced, and `object.png` is removed where
                there is no detection to be explained.

        Raises:
            OSError: one cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / PAGE_NAME, folder / NUMBERS_NAME]
        write_text(paths[0], page(self))
        write_text(paths[1], json.dumps(self.to_dict(), allow_nan=False) + "\n")
        for kind in PANELS:
            path = folder / f"{kind}.png"
            if kind == "object" and self.detection is None:
                path.unlink(missing_ok=True)  # of an explanation before this one
            else:
                save_picture(self.panel(kind), path)
                paths.append(path)
        return paths
