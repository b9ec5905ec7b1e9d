"""Text from outside, safe for a terminal: nothing in it moves the cursor, hides or reorders what is shown."""

_MARK = "\ufffd"


def printable(text: str) -> str:
    """The same text, every character that is none to look at as one mark; line feeds stay."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else _mark(letter) for letter in text)


def one_line(text: str) -> str:
    """The same on one line."""
    return printable(" ".join(text.split("\n")))


def _mark(letter: str) -> str:
    return " " if letter.isspace() else _MARK
