"""Annotated pictures on the screen, in one window."""

from __future__ import annotations

from dyzoo.errors import DyzooError, first_line
from dyzoo.prediction.outputs import Found


class Screen:
    """A window that shows each picture as it comes, until it is closed.

    Raises:
        DyzooError: there is no screen.
    """

    def __init__(self) -> None:
        import matplotlib.pyplot as plt

        self._plt = plt
        try:
            self._figure = plt.figure("dyzoo", layout="constrained")
        except Exception as error:  # toolkits have errors of their own
            raise DyzooError(f"there is no screen to show pictures on: {first_line(error)}") from None
        if self._figure.canvas.required_interactive_framework is None:
            plt.close(self._figure)
            raise DyzooError("there is no screen to show pictures on, or no toolkit for windows, such as python3-tk")
        self._axes = self._figure.add_subplot()

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed the window."""
        return bool(self._plt.fignum_exists(self._figure.number))

    def add(self, found: Found) -> None:
        """Show a picture in the place of the one before."""
        if not self.is_open:
            return
        self._axes.clear()
        self._axes.set_axis_off()
        self._axes.set_title(found.stem.replace("$", r"\$"))  # which would begin a formula
        self._axes.imshow(found.plot)
        self._plt.pause(0.001)  # lets the window draw itself

    def wait(self) -> None:
        """Wait until the window is closed."""
        if self.is_open:
            self._plt.show(block=True)

    def close(self) -> None:
        """Close the window."""
        self._plt.close(self._figure)
