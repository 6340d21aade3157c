"""`dyzoo fetch`: fetch published detectors ahead of their use."""

from __future__ import annotations

from typing import Annotated

import typer

from dyzoo.cli.terminal import complain, megabytes, say
from dyzoo.errors import DyzooError, UnknownModelError


def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Checkpoints of `dyzoo list`.")],
) -> None:
    """Fetch published detectors, convert and keep them, so that they load without network.

    A name that is wrong or cannot be fetched is named on one line; the others still come, and the exit code is 1. A
    download that breaks off goes on where it broke, in a later call too. They are kept in the folder that DYZOO_HOME
    names, or beside huggingface_hub's. DYZOO_MIRROR names a folder or address where files are looked for first.

    \b
    Examples:
      dyzoo fetch mmdet_atss_r50.coco
      dyzoo fetch official_atss_r50.coco official_atss_swin_t.coco
      DYZOO_MIRROR=/srv/weights dyzoo fetch mmdet_atss_swin_l.coco
    """
    from dyzoo.zoo.names import find_checkpoint

    known, failed = [], 0
    for name in dict.fromkeys(names):
        try:
            known.append(find_checkpoint(name))
        except UnknownModelError as error:  # said before anything is fetched, which may take long
            complain(str(error))
            failed += 1
    for checkpoint in known:
        from dyzoo.zoo.creation import fetch_checkpoint
        from dyzoo.zoo.store import size_on_disk

        try:
            folder = fetch_checkpoint(checkpoint)
        except DyzooError as error:
            complain(str(error))
            failed += 1
        else:
            say(f"{checkpoint.name}: {megabytes(size_on_disk(folder))} -> {folder}")
    if failed:
        raise typer.Exit(1)
