"""YOLO: one text file of boxes for each image, as Ultralytics, CVAT, Label Studio, Roboflow and labelImg write it.

A line is `class x y width height`: a number among the class names, the centre of the box and its sides, relative to
the image's. A longer line of an odd count is an outline, `class x y x y x y ...`, and becomes the box around it. Where
`data.yaml` has a `kpt_shape`, or all longer lines look like it, what follows the box is keypoints. An image without a
label file, or with an empty one, shows background.

Class names and splits come from `data.yaml` (Ultralytics), from `obj.data` (darknet), or from `classes.txt`. An image's
label file lies where the last folder `images` of its path says `labels` instead, or beside the image.
"""

from dyzoo.data.formats.yolo.reading import LAYOUT, NAME, find_splits

__all__ = ["LAYOUT", "NAME", "find_splits"]
