"""What a user is meant to read of a failure. Imports nothing, so that every room can raise it."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""A text on one line, with what could steer a terminal or reorder a page shown escaped.

    So are bytes of file names that are no text (`\udcXX`): the result can be encoded as UTF-8.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def first_line(error: Exception, most: int | None = None) -> str:
    """What an error of another library says, in a line of at most so many characters."""
    text = str(error).strip()
    return text.splitlines()[0][:most] if text else type(error).__name__


class InputError(ValueError):
    """Input that a user can mend: one line that names the thing and the mend.

    The command line prints it without a traceback and exits with 2. The text may quote names taken
    from files, so what could break the line or steer a terminal is shown escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class Stopped(BaseException):
    """The process was asked to end (SIGTERM, Ctrl-C): what is done is kept."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
        """The number of the signal."""
