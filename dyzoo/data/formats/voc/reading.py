"""Reading a split of a Pascal VOC folder: its label files, and the images that they are of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from dyzoo.data.formats.lookup import read_own_text, read_regular
from dyzoo.data.formats.shares import mark_shares
from dyzoo.data.formats.splits import FoundSplit
from dyzoo.data.formats.voc.folder import Files, find_folders, find_sources
from dyzoo.data.formats.walking import files_below, images_below
from dyzoo.data.records import ImageRecord, Notes, ObjectRecord, SplitRecord
from dyzoo.errors import DatasetError, first_line
from dyzoo.images.finding import IMAGE_SUFFIXES, natural_key

NAME = "Pascal VOC"
LAYOUT = "Annotations/*.xml, JPEGImages/ and ImageSets/Main/<split>.txt; or images with their .xml beside them"

LABELMAP_NAME = "labelmap.txt"
LABELMAP_HEADER = "# label:color_rgb:parts:actions"
NO_LABEL_FILE = "images without a label file, dropped"

_MOST_XML_BYTES = 1 << 26  # the file of one image: some 200,000 objects
_IMAGE_AND_LABEL_FILE = re.compile(rf"(.*(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))\s.*\.xml", re.IGNORECASE)


def find_splits(folder: Path) -> dict[str, FoundSplit]:
    """The splits by name; none if this is not VOC."""
    sources = find_sources(folder)
    return {name: FoundSplit(source, partial(_read, folder, name, sources)) for name, source in sources.items()}


def _read(folder: Path, split: str, sources: Mapping[str, Path], notes: Notes) -> SplitRecord:
    """Read one of the `sources`. Image ids count from 1.

    Labels are those of `labelmap.txt`, then the sorted names of the split's other classes.

    Raises:
        DatasetError: the list of the split or `labelmap.txt` cannot be read or is a link out of the folder.
    """
    source = sources[split]
    label_folder, image_folder = find_folders(folder, split, source)
    label_files = Files(files_below(label_folder, (".xml",)), label_folder)
    image_files = Files(images_below(image_folder, notes, [folder]), image_folder)
    stems = sorted(label_files.by_stem, key=natural_key) if source.is_dir() else _read_list(source, folder)

    images = []
    of_supervision = []
    found = list(_label_files(stems, label_files, image_files, notes))
    taken = {image_files.by_stem[stem] for stem, _ in found if stem in image_files.by_stem}
    for image_id, (stem, label_file) in enumerate(found, start=1):
        if (root := _parse(label_file, notes)) is None:
            continue
        # The file's own name leads: <filename> often is what the image was called on the labeller's machine.
        path = image_files.by_stem.get(stem)
        if path is None:
            path = image_files.find(stem) or image_files.find(_without_suffix(root.findtext("filename") or ""))
            if path is None or path in taken:
                fault = "images absent on disk, dropped" if path is None else "label files of one image, first kept"
                notes.add(fault, stem, path)
                continue
            taken.add(path)
        image = ImageRecord(path, image_id, list(_objects(root, path.name, notes)), _claimed_size(root))
        images.append(image)
        if _is_of_supervision(root):
            of_supervision.append(image)
    _count_pixels_from_0(of_supervision, notes)
    images = mark_shares(images, source, notes)
    others = (find_folders(folder, name, path)[1] for name, path in sources.items() if name != split)
    if source.is_dir() and image_folder not in others:
        labelled = {image.path for image in images}
        for stem, path in image_files.by_stem.items():
            if path not in labelled and label_files.find(stem) is None:
                notes.add(NO_LABEL_FILE, stem, path)
    names = {each.name for image in images for each in image.objects}
    known = _labelmap(folder / LABELMAP_NAME, names, notes)
    labels = (*known, *sorted(names - set(known)))
    return SplitRecord(images, labels, tuple(range(1, len(labels) + 1)))


def _read_list(path: Path, folder: Path) -> list[str]:
    """Image names without suffix, one a line."""
    try:
        lines = read_own_text(path, [folder]).splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{path} leads nowhere, expected one image name a line") from None
    return [_without_suffix(name) for line in lines if (name := _unquoted(line.strip()))]


def _unquoted(text: str) -> str:
    """CVAT puts names with spaces into quotes; PaddleDetection puts the label file behind the image."""
    if both := _IMAGE_AND_LABEL_FILE.fullmatch(text):
        return both[1]
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _without_suffix(name: str) -> str:
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _label_files(
    stems: Sequence[str], label_files: Files, image_files: Files, notes: Notes
) -> Iterator[tuple[str, Path]]:
    """Place of each image and its label file, each once."""
    seen: set[Path | str] = set()
    for name in stems:
        path = label_files.find(name)
        if (path or name) in seen:
            notes.add("images listed more than once, taken once", name)
        elif path is None:
            notes.add(NO_LABEL_FILE, name, image_files.find(name))
        else:
            yield label_files.stem_of(path), path
        seen.add(path or name)


def _parse(path: Path, notes: Notes) -> Element | None:
    """The root of a label file, None if it is none."""
    try:
        root: Element = defusedxml.ElementTree.fromstring(read_regular(path, _MOST_XML_BYTES))
    except (FileNotFoundError, DatasetError) as error:
        notes.add("label files that cannot be read, dropped", error)
        return None
    # LookupError: there is no such encoding; ValueError: none that XML can be in.
    except (defusedxml.ElementTree.ParseError, DefusedXmlException, LookupError, ValueError) as error:
        notes.add("label files that are not XML, dropped", f"{path.name}: {first_line(error)}")
        return None
    if root.tag != "annotation":
        notes.add("label files of another kind, dropped", f"{path.name} has <{root.tag}>, not <annotation>")
        return None
    return root


def _labelmap(path: Path, used: Set[str], notes: Notes) -> tuple[str, ...]:
    """The classes of lines such as `cat:128,0,0::`, in order; none if there is no such file."""
    try:
        lines = [line.strip() for line in read_own_text(path, [path.parent]).splitlines()]
    except FileNotFoundError:
        return ()
    names: dict[str, None] = {}
    for line in lines:
        name, *rest = line.rsplit(":", 3)
        if not line or line == LABELMAP_HEADER or (line.startswith("#") and len(rest) < 3):
            continue
        # CVAT's, VOC's and datumaro's word for what is no object, in black or no colour, unless objects are called so.
        if name == "background" and rest and rest[0] in ("0,0,0", "") and name not in used:
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


def _is_of_supervision(root: Element) -> bool:
    """Whether supervision wrote this: Roboflow's own files name no folder, and a path."""
    head = root.findtext("folder"), root.findtext("source/database")
    return head == ("VOC", "roboflow.ai") and root.find("path") is None


def _count_pixels_from_0(images: Sequence[ImageRecord], notes: Notes) -> None:
    """Move the boxes of supervision's files back.

    All its versions add 1 to the near edges. Those up to 0.27 add 1 to the far edges too, which shows where an object
    reaches the right or lower edge of its image.
    """
    far = 0
    for image in images:
        width, height = image.claimed_size or (float("inf"), float("inf"))
        if any(each.box_xyxy[2] == width + 1 or each.box_xyxy[3] == height + 1 for each in image.objects):
            far = 1
    for image in images:
        for number, each in enumerate(image.objects):
            x1, y1, x2, y2 = each.box_xyxy
            image.objects[number] = each._replace(box_xyxy=(x1 - 1, y1 - 1, x2 - far, y2 - far))
            notes.add("boxes of supervision, which numbers pixels from 1, moved to edges from 0", image.path.name)
