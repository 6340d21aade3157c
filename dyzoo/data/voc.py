"""Pascal VOC: one XML file of objects for each image.

Coordinates are taken as pixel edges, as they stand: labelling tools write them so, and a box whose sides coincide has
no area. (The original VOC numbers pixels from 1 and includes the last one; its boxes come out one pixel narrow at the
left and the top, alike in training and in evaluation.) Objects marked `difficult` become crowd regions: left out of
training, ignored by evaluation.

Where there is a `labelmap.txt`, as CVAT writes it, it gives the classes and their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from pathlib import Path
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from dyzoo.data.records import ImageRecord, Notes, ObjectRecord, SplitRecord
from dyzoo.errors import DatasetError
from dyzoo.images import IMAGE_SUFFIXES, is_image_file, natural_key

NAME = "Pascal VOC"
LAYOUT = "Annotations/*.xml, JPEGImages/ and ImageSets/Main/<split>.txt; or images with their .xml beside them"

LABELMAP_NAME = "labelmap.txt"
LABELMAP_HEADER = "# label:color_rgb:parts:actions"
NO_LABEL_FILE = "images without a label file, dropped"

_LABEL_FOLDERS = ("Annotations", "annotations")
_IMAGE_FOLDERS = ("JPEGImages", "images")


def find_splits(folder: Path) -> dict[str, Path]:
    """Split name -> its list of images, or the folder that holds its label files; empty if this is not VOC."""
    for name in _LABEL_FOLDERS:
        if _holds_xml(folder / name, "**/*.xml"):
            return _find_lists(folder / "ImageSets" / "Main") or {"all": folder / name}
    if _holds_xml(folder):
        return {"all": folder}
    return {child.name: child for child in sorted(folder.iterdir()) if _holds_xml(child)}


def _find_lists(folder: Path) -> dict[str, Path]:
    lists = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    # Beside `train.txt` VOC has `cat_train.txt` and so on: the same images, marked for one class each.
    of_one_class = {name for name in lists if "_" in name and name.rpartition("_")[2] in lists}
    return {name: path for name, path in lists.items() if name not in of_one_class}


def read(folder: Path, split: str, notes: Notes) -> SplitRecord:
    """Read one of `find_splits`. Image ids count from 1.

    Labels are those of `labelmap.txt`, then the sorted names of the split's other classes.
    """
    source = find_splits(folder)[split]
    label_folder, image_folder = _folders(folder, source)
    label_files = {_stem(path, label_folder): path for path in label_folder.rglob("*.xml")}
    image_files = {_stem(path, image_folder): path for path in sorted(image_folder.rglob("*")) if is_image_file(path)}
    stems = _read_list(source, notes) if source.is_file() else sorted(label_files, key=natural_key)

    images = []
    for image_id, stem in enumerate(stems, start=1):
        if stem not in label_files:
            notes.add(NO_LABEL_FILE, stem, image_files.get(stem))
            continue
        try:
            root = defusedxml.ElementTree.parse(label_files[stem]).getroot()
        except (defusedxml.ElementTree.ParseError, DefusedXmlException, ValueError) as error:
            notes.add("label files that are not XML, dropped", f"{label_files[stem].name}: {error}")
            continue
        if root.tag != "annotation":
            example = f"{label_files[stem].name} has <{root.tag}>, not <annotation>"
            notes.add("label files of another kind, dropped", example)
            continue
        # The file's own name leads: <filename> often is what the image was called on the labeller's machine.
        path = image_files.get(stem) or image_files.get(Path(root.findtext("filename") or "").stem)
        if path is None:
            notes.add("images absent on disk, dropped", stem)
            continue
        images.append(ImageRecord(path, image_id, list(_objects(root, path.name, notes)), _claimed_size(root)))
    if source.is_dir():
        labelled = {image.path for image in images}
        for stem, path in image_files.items():
            if path not in labelled and stem not in label_files:
                notes.add(NO_LABEL_FILE, stem, path)
    names = {each.name for image in images for each in image.objects}
    known = _labelmap(folder / LABELMAP_NAME, names, notes)
    labels = (*known, *sorted(names - set(known)))
    return SplitRecord(images, labels, tuple(range(1, len(labels) + 1)))


def _holds_xml(folder: Path, pattern: str = "*.xml") -> bool:
    return folder.is_dir() and any(folder.glob(pattern))


def _folders(folder: Path, source: Path) -> tuple[Path, Path]:
    """The folders of the label files and of the images."""
    label_folders = (folder / name for name in _LABEL_FOLDERS if _holds_xml(folder / name, "**/*.xml"))
    label_folder = source if source.is_dir() else next(label_folders)
    if label_folder.name not in _LABEL_FOLDERS:
        return label_folder, label_folder
    return label_folder, next((folder / n for n in _IMAGE_FOLDERS if (folder / n).is_dir()), folder)


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _read_list(path: Path, notes: Notes) -> list[str]:
    """Image names without suffix, one a line, each once."""
    try:
        lines = [_unquoted(line.strip()) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not a text file, expected one image name a line") from None
    names = [str(Path(n).with_suffix("")) if n.lower().endswith(IMAGE_SUFFIXES) else n for n in lines if n]
    counts = Counter(names)
    notes.add_all("images listed more than once, taken once", (name for name in counts if counts[name] > 1))
    return list(counts)


def _unquoted(text: str) -> str:
    """CVAT puts names with spaces into quotes."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _labelmap(path: Path, used: Set[str], notes: Notes) -> tuple[str, ...]:
    """The classes of lines such as `cat:128,0,0::`, in order; none if there is no such file."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        return ()
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not a text file, expected lines such as `cat:128,0,0::`") from None
    names: dict[str, None] = {}
    for line in lines:
        name, *rest = line.rsplit(":", 3)
        if not line or line == LABELMAP_HEADER or (line.startswith("#") and len(rest) < 3):
            continue
        # CVAT's and VOC's word for what is no object, in black, unless objects are called so.
        if line.startswith("background:0,0,0:") and name not in used:
            continue
        if len(rest) < 3:
            name = line.partition(":")[0]
        if name.strip() in names:
            notes.add("classes listed more than once, taken once", name)
        names[name.strip()] = None
    return tuple(filter(None, names))


def _claimed_size(root: Element) -> tuple[int, int] | None:
    try:
        size = int(root.findtext("size/width") or 0), int(root.findtext("size/height") or 0)
    except ValueError:
        return None
    return size if min(size) > 0 else None  # labelling tools write 0 where they did not look


def _objects(root: Element, image_name: str, notes: Notes) -> Iterable[ObjectRecord]:
    for element in root.iter("object"):
        name = (element.findtext("name") or "").strip()
        try:
            corners = [float(element.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            corners = []
        if not name or not corners:
            notes.add("objects without a class name or four numbers, dropped", f"{name or 'nameless'} in {image_name}")
            continue
        crowd = (element.findtext("difficult") or "0").strip() == "1"
        yield ObjectRecord(name, (corners[0], corners[1], corners[2], corners[3]), crowd)
