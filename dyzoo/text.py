"""Text of strangers as it may be shown."""


def printable(text: str) -> str:
    """The text on one line without what a terminal, a browser or the direction of writing would obey, which is spelt
    out: names of files and classes come from strangers."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def signed(value: float | None) -> str:
    """A difference of metrics to three places, a dash where there is none."""
    return "-" if value is None else f"{round(value, 3) + 0.0:+.3f}"  # a negative zero is none
