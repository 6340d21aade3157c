"""COCO: one JSON file with the images, the categories and the boxes of a split.

Category ids may have gaps; labels follow the order of the ids, which are kept for export. `iscrowd` annotations
become crowd regions: left out of training, ignored by evaluation. The "area" of an annotation is kept, as it decides
what evaluation takes for small, medium and large. Where an annotation has an outline alone, its box is around that.
"""

from dyzoo.data.formats.coco.reading import LAYOUT, NAME, find_splits

__all__ = ["LAYOUT", "NAME", "find_splits"]
