"""Pascal VOC: one XML file of objects for each image.

Coordinates are taken as pixel edges, as they stand: labelling tools write them so, and a box whose sides coincide has
no area. (The original VOC numbers pixels from 1 and includes the last one; its boxes come out one pixel narrow at the
left and the top, alike in training and in evaluation.) supervision numbers pixels from 1 too; the head of its files
tells whose they are, and their boxes are moved back to where they were. Objects marked `difficult` become crowd
regions: left out of training, ignored by evaluation.

Where there is a `labelmap.txt`, as CVAT writes it, it gives the classes and their order.
"""

from dyzoo.data.formats.voc.reading import LABELMAP_HEADER, LABELMAP_NAME, LAYOUT, NAME, find_splits

__all__ = ["LABELMAP_HEADER", "LABELMAP_NAME", "LAYOUT", "NAME", "find_splits"]
