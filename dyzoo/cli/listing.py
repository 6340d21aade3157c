"""`dyzoo list`: the architectures and checkpoints there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dyzoo.cli.terminal import megabytes, plain, say, show, show_table
from dyzoo.errors import UnknownModelError

if TYPE_CHECKING:
    from dyzoo.model.backbones.families import Family
    from dyzoo.zoo.catalog import Checkpoint

LEGEND = """\
checkpoint  of several, the architecture's name alone stands for the one with a star
metrics     fractions of 1, measured with these weights; as their publisher reports, where it says so
here        whether a checkpoint loads without network; the size is that of the download
parameters  with COCO's 80 classes, in millions; frozen norms are not counted
GFLOPs      one image of 800 x 1344, a multiplication and an addition counted once
AP          box AP on COCO in percent, as reported by others for this design; not measured here
weights     the tag of a checkpoint that loads by name, or others' weights that `dyzoo convert --from NAME` reads"""


def list_models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Shell wildcards, in quotes.")] = "*",
    backbones: Annotated[bool, typer.Option("--backbones", help="timm's backbones instead, and which of them fit.")] = (
        False
    ),
) -> None:
    """List the trained checkpoints and the architectures; of a single one, say more.

    With --backbones: the families of timm's models, or with a PATTERN the models.

    \b
    Examples:
      dyzoo list
      dyzoo list '*swin*'
      dyzoo list official_atss_r50
      dyzoo list mmdet_atss_r50.coco
      dyzoo list --backbones
      dyzoo list --backbones 'convnext*'
    """
    if backbones:
        return _list_backbones(pattern)
    from rich import box
    from rich.table import Table

    from dyzoo.config.architectures import PUBLISHED
    from dyzoo.zoo.catalog import checkpoints
    from dyzoo.zoo.complexity import complexities
    from dyzoo.zoo.names import list_models as names
    from dyzoo.zoo.names import tags_of

    trained = Table("checkpoint", "dataset", "metrics", "licence", "here", box=box.SIMPLE_HEAD)
    for name in names(pattern, pretrained=True):
        known = checkpoints()[name]
        tags = tags_of(known.architecture)
        shown = f"{name} *" if len(tags) > 1 and name == tags[0] else name
        trained.add_row(*map(plain, (shown, known.dataset, _metrics(known), known.licence, _is_here(known))))
    designs = Table("architecture", box=box.SIMPLE_HEAD)
    for column in ("parameters", "GFLOPs", "AP"):
        designs.add_column(column, justify="right")
    designs.add_column("weights")
    for name in names(pattern):
        cost, reported = complexities()[name], PUBLISHED.get(name)
        designs.add_row(
            name,
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.gflops:.1f}",
            f"{reported.ap:.1f}" if reported else "",
            _weights(name),
        )
    trained.columns[3].no_wrap = True
    words = [word for dataset in trained.columns[1].cells for word in str(dataset).split()]
    trained.columns[1].min_width = max(map(len, words), default=None)  # or rich cuts a name that has no space
    tables = [table for table in (trained, designs) if table.row_count]
    if not tables:
        raise UnknownModelError(f"no model is called {pattern!r}: `dyzoo list` shows all of them")
    for table in tables:
        table.columns[0].no_wrap = True
        show_table(table)
    if designs.row_count == 1:
        _print_more(names(pattern)[0])
    elif not designs.row_count and trained.row_count == 1:
        _print_origin(checkpoints()[names(pattern, pretrained=True)[0]])
    elif designs.row_count:
        show(LEGEND)


def _list_backbones(pattern: str) -> None:
    from fnmatch import fnmatchcase

    import timm
    from rich import box
    from rich.table import Table

    from dyzoo.model.backbones.families import families, family_of

    known = families()
    if pattern == "*":
        table = Table("family", "tried", "fits", box=box.SIMPLE_HEAD)
        for name, family in known.items():
            table.add_row(name.partition("/")[2], family.example, _fits(family))
    else:
        table = Table("backbone", "fits", box=box.SIMPLE_HEAD)
        for model in filter(lambda model: fnmatchcase(model, pattern), timm.list_models()):
            table.add_row(model, _fits(known.get(family_of(model))))
    if not table.row_count:
        raise UnknownModelError(f"no backbone is called {pattern!r}: `dyzoo list --backbones` shows their families")
    table.columns[-2].no_wrap = True
    show_table(table)


def _fits(family: Family | None) -> str:
    if family is None:
        return "not tried"
    return f"no: {family.reason}" if family.refusal else "yes"


def _metrics(checkpoint: Checkpoint) -> str:
    values = ", ".join(f"{name} {value:.3f}" for name, value in (checkpoint.metrics or checkpoint.reported).items())
    return values if checkpoint.metrics else f"{values} reported"


def _is_here(checkpoint: Checkpoint) -> str:
    from dyzoo.zoo.complexity import complexities
    from dyzoo.zoo.store import kept

    if checkpoint.folder is not None:
        return "in the package"
    if not checkpoint.is_foreign:
        return "on the Hub, or in its cache"
    if kept(checkpoint) is not None:
        return "kept"
    if checkpoint.size is not None:
        return f"{megabytes(checkpoint.size)} to fetch"
    parameters = checkpoint.parameters or complexities()[checkpoint.architecture].parameters
    return f"~{megabytes(4 * parameters)} to fetch"  # of float32


def _print_origin(checkpoint: Checkpoint) -> None:
    from dyzoo.zoo.store import Provenance, kept_folder

    lines = {"from": checkpoint.source, "reported by": checkpoint.reported_by, "mind": checkpoint.unverified}
    if checkpoint.is_foreign:
        lines["file"] = checkpoint.addresses[0]
        prefix = f"{checkpoint.sha256_prefix}..." if checkpoint.sha256_prefix else "the Hub's"
        lines["sha256"] = checkpoint.sha256 or prefix
        kept = Provenance.read(kept_folder(checkpoint.name))
        lines["kept in"] = f"{kept_folder(checkpoint.name)}, fetched {kept.fetched}" if kept else None
    for what, text in lines.items():
        if text:
            say(f"{what}: {text}")


def _weights(architecture: str) -> str:
    from dyzoo.config.architectures import PUBLISHED
    from dyzoo.zoo.names import tags_of

    tags = [name.removeprefix(architecture) for name in tags_of(architecture)]
    reported = PUBLISHED.get(architecture)
    convertible = reported is not None and reported.weights_url is not None
    return ", ".join([*tags, *(["convert"] if convertible else [])])


def _print_more(architecture: str) -> None:
    from inspect import getdoc

    from dyzoo.config.architectures import ARCHITECTURES, PUBLISHED

    show(getdoc(ARCHITECTURES[architecture]) or "")
    reported = PUBLISHED.get(architecture)
    if reported is not None:
        say(f"AP {reported.ap:.1f}: {reported.where}")
    if reported is not None and reported.weights_url is not None:
        show(f"weights: {reported.weights_url}\n         dyzoo convert FILE --from {architecture} --out DIR")
