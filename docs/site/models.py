"""Page of all detectors, made of the registered architectures, the catalogue and the measured complexities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import getdoc

from dyzoo.config import DetectorConfig
from dyzoo.config.architectures import ARCHITECTURES, PUBLISHED
from dyzoo.hub.markdown import plain
from dyzoo.zoo.catalog import Checkpoint, checkpoints
from dyzoo.zoo.complexity import IMAGE_SIZE, complexities
from dyzoo.zoo.names import tags_of

PAGE = "models.md"
HEADS = {
    "atss": "ATSS",
    "grounded_atss": "ATSS of words",
    "retinanet": "RetinaNet",
    "fcos": "FCOS",
    "faster_rcnn": "Faster R-CNN",
}
INTRO = f"""\
# All detectors

`dyzoo.create_model(name)` makes one, `dyzoo list` prints them. Parameters are counted with COCO's 80 classes, frozen
norms left out; GFLOPs are those of one image of {IMAGE_SIZE[0]} x {IMAGE_SIZE[1]}, a multiplication and an addition
counted once. **AP is what others report** for a design, in percent on COCO, and was not measured here; metrics of the
embedded checkpoint were.
"""


def pages() -> dict[str, str]:
    """Text of the page by its path."""
    designs = list(ARCHITECTURES)
    head = ("detector", "head", "backbone", "parameters", "GFLOPs", "AP, as reported", "by", "weights")
    right = {"parameters", "GFLOPs", "AP, as reported"}
    parts = [
        INTRO,
        "## Designs\n",
        _table(head, map(_design, designs), right),
        "## Trained weights\n",
        "They load by name; see [pretrained detectors](pretrained.md).\n",
        _table(
            ("checkpoint", "data", "AP", "by", "licence", "file"), map(_weights, checkpoints().values()), right={"AP"}
        ),
        *(f"## {name}\n\n{_section(name, ARCHITECTURES[name]())}" for name in designs),
    ]
    return {PAGE: "\n".join(parts)}


def _design(name: str) -> list[str]:
    config, cost, reported = ARCHITECTURES[name](), complexities()[name], PUBLISHED.get(name)
    return [
        f"[`{name}`](#{name})",
        HEADS[config.head.type],
        f"`{config.backbone.name}`",
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.gflops:.1f}",
        f"{reported.ap:.1f}" if reported else "",
        plain(reported.where) if reported else "",
        ", ".join(f"`.{tag.partition('.')[2]}`" for tag in tags_of(name)),
    ]


def _weights(checkpoint: Checkpoint) -> list[str]:
    values = checkpoint.metrics or checkpoint.reported
    return [
        f"`{checkpoint.name}`",
        plain(checkpoint.dataset),
        f"{values['AP']:.3f}",
        "measured here" if checkpoint.metrics else plain(checkpoint.reported_by or ""),
        plain(checkpoint.licence),
        _place(checkpoint),
    ]


def _place(checkpoint: Checkpoint) -> str:
    """Where the file is: a link named after the server, or the repository on the Hub."""
    if not checkpoint.is_foreign:
        return f"`hf://{checkpoint.repo_id}`" if checkpoint.repo_id else "in the package"
    address = checkpoint.addresses[0]
    first, _, path = address.partition("://")[2].partition("/")
    return f"`hf://{first}/{path.split('/')[0]}`" if address.startswith("hf://") else f"[{first}]({address})"


def _section(name: str, config: DetectorConfig) -> str:
    """Parts of a detector, and the origin of its numbers and weights."""
    dyhead, cost, reported = config.dyhead, complexities()[name], PUBLISHED.get(name)
    strides = ", ".join(map(str, config.fpn.strides_px))
    preprocess = config.preprocess
    rows = [
        ("backbone", f"`{config.backbone.name}` of timm"),
        ("pyramid", f"{config.fpn.channels} channels, strides {strides}"),
        ("DyHead", f"{dyhead.num_blocks} blocks of {dyhead.channels} channels, offsets `{dyhead.offset_mode}`"),
        ("head", HEADS[config.head.type]),
        ("pictures", f"shortest edge {preprocess.shortest_edge} px, longest {preprocess.longest_edge} px at most"),
        ("cost", f"{cost.parameters / 1e6:.2f} M parameters, {cost.gflops:.1f} GFLOPs"),
    ]
    if reported:
        rows.append(("reported", f"AP {reported.ap:.1f}: {plain(reported.where)}"))
    if reported and reported.weights_url:
        rows.append(("origin", f"<{reported.weights_url}>"))
    for tag in tags_of(name):
        entry = checkpoints()[tag]
        rows.append((f"`{tag}`", plain(" ".join(filter(None, [entry.source, entry.unverified])))))
    tags = tags_of(name)
    call = f'"{tags[0]}", pretrained=True' if tags else f'"{name}", labels=["cat", "dog"]'
    code = f"```python\nmodel = dyzoo.create_model({call})\n```\n"
    description = " ".join((getdoc(ARCHITECTURES[name]) or "").split())
    return "\n".join([f"{description}\n", code, _table(("", ""), rows)])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: set[str] | frozenset[str] = frozenset()) -> str:
    lines = [head, ["---:" if name in right else "---" for name in head], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
