"""The model card that `dyzoo evaluate --card` writes."""

from __future__ import annotations

import errno
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from dyzoo.cli.options import make_folder
from dyzoo.errors import CheckpointError
from dyzoo.files import read_regular, write_text

if TYPE_CHECKING:
    from dyzoo.evaluation import Evaluation

_MAX_CARD_BYTES = 1 << 22


def card_name(card: Path, model: str, called: str) -> str:
    """Make the folder for a card, before any work is done for it.

    Returns:
        The detector's name in the card: that of the folder where it lies beside the weights, else `called`.

    Raises:
        CheckpointError: somebody wrote or edited the file, or it belongs to other weights.
        OSError: it is no file, or cannot be read.
    """
    from dyzoo.hub.cards import is_hand_written
    from dyzoo.hub.ids import WEIGHTS_NAME
    from dyzoo.hub.run_card import BEST_NAME
    from dyzoo.zoo.origins import checkpoint_of
    from dyzoo.zoo.store import kept_folder

    if card.is_dir():
        raise OSError(errno.EISDIR, "is a folder, expected a file to write to", str(card))
    if card.exists() and is_hand_written(read_regular(card, _MAX_CARD_BYTES).decode("utf-8", "replace")):
        raise CheckpointError(f"{card} is not as dyzoo wrote it, it is left alone: name another file with --card")
    folder = card.absolute().parent
    make_folder(folder)
    if not (folder / WEIGHTS_NAME).exists():
        return called
    known = checkpoint_of(model)
    of_model = [Path(model).expanduser(), *([kept_folder(known.name)] if known is not None else [])]
    if folder.resolve() in (own.resolve() for own in of_model):
        return folder.name
    if folder.resolve() == (of_model[0] / BEST_NAME).resolve():
        raise CheckpointError(
            f"`dyzoo push {model}` writes the card of a run itself, with the metrics in {Path(model) / 'evaluation'}: "
            "name another file with --card"
        )
    raise CheckpointError(f"{card} lies beside other weights than those of {model}: name another file with --card")


def write_card(card: Path, text: str, name: str, evaluation: Evaluation, data: Path, split: str) -> None:
    """Write the card with what was measured added.

    Args:
        card: the file; written aside and renamed.
        text: what the detector's card has said so far.
        name: what the card calls it, see `card_name`.
        evaluation: the result on `data`.
        data: the data set's folder, of which the card has the name.
        split: which part of it.
    """
    import torch

    from dyzoo._version import __version__
    from dyzoo.hub.cards import CardDetails, adapt_card
    from dyzoo.hub.measurements import Measurement

    today = datetime.now(timezone.utc).date().isoformat()
    made = f"{today} with dyzoo {__version__} and torch {torch.__version__}"
    measured = Measurement.of(evaluation, data.resolve().name, split, made=made)
    write_text(card, adapt_card(text, name, CardDetails(measurements=[measured])))


def with_reported(evaluation: Evaluation, model: str) -> Evaluation:
    """The evaluation beside what others report of a checkpoint of the catalogue."""
    from dataclasses import replace

    from dyzoo.zoo.origins import checkpoint_of

    known = checkpoint_of(model)
    if known is None or not known.reported:
        return evaluation
    return replace(evaluation, reported=known.reported, reported_by=str(known.reported_by))
