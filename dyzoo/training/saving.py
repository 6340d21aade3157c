"""Saving a run as a whole, and going on from where it was saved."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dyzoo.distributed import gather_on_main
from dyzoo.training.checkpoint import LABELS, Checkpoints, check_settings, load_parts
from dyzoo.training.progression import Progression
from dyzoo.training.randomness import random_state, seed_process, set_random_state
from dyzoo.training.setup import Setup


class Saver:
    """Writes what a run needs to go on, and reads it.

    Args:
        setup: whose state is saved.
        checkpoints: where it is kept.
        labels_sha256: fingerprint of the training split; a run goes on with the same data alone.

    Attributes:
        progression: the position in the training; `resume` puts another in its place.
        saved_steps: steps that the newest checkpoint holds.
    """

    def __init__(self, setup: Setup, checkpoints: Checkpoints, labels_sha256: str) -> None:
        self.state, self.processes, self.checkpoints = setup.state, setup.processes, checkpoints
        self.progression = Progression()
        self.saved_steps = 0
        self._random: dict[str, Any] | None = None  # from a checkpoint, until the batches of its epoch are under way
        config = setup.config
        self._seed = config.seed
        self._settings: dict[str, int | str] = {
            "training images": len(setup.train_set),
            LABELS: labels_sha256,
            "images in a batch of all processes": config.batch_size * self.processes.count,
            "accumulated batches": config.accumulate,
            "seed": config.seed,
        }

    def save(self) -> None:
        """Write a checkpoint of all processes.

        Raises:
            TrainingError: it cannot be written; those before are untouched.
        """
        progression, random = self.progression, gather_on_main(random_state())

        def write() -> None:
            self.checkpoints.save(
                progression.steps_done, self.state.parts(), asdict(progression), random, self._settings
            )

        self.processes.on_main(write)
        self.saved_steps = progression.steps_done

    def resume(self, batches: int, epochs: int) -> None:
        """Go on from the newest whole checkpoint, and say where that is.

        Args:
            batches, epochs: of an epoch, and of the run.

        Raises:
            TrainingError: there is none, or it belongs to another run.
        """
        say = self.processes.console.print
        notes: list[str] = []
        saved = self.checkpoints.newest(notes.append)
        for note in notes:
            say(note)
        check_settings(saved, self._settings)
        load_parts(saved, self.state.parts())
        self.progression = Progression(**saved["progress"])
        self.saved_steps = self.progression.steps_done
        say(f"resuming from {saved['path'].name}: {self.progression.place(batches, epochs)}")
        if len(saved["random"]) == self.processes.count:
            self._random = saved["random"][self.processes.index]
        else:
            say(
                f"{saved['path']} is of {len(saved['random'])} processes, now there are {self.processes.count}: "
                "the batches stay the same, other random numbers are drawn afresh"
            )
            seed_process(self._seed, self.processes.index, self.progression.steps_done)

    def restore_random(self) -> None:
        """Put the random generators where the checkpoint found them; only the first call after `resume` does so."""
        if self._random is not None:
            set_random_state(self._random)
            self._random = None
