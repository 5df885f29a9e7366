"""How an error is told: in one line, and where it comes from if that is asked for."""

import sys
import traceback

from shoal.errors import ShoalError


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    text = " ".join(str(error).split()) or "no reason given"
    return text if isinstance(error, ShoalError) else f"{type(error).__name__}: {text}"


def tell(error: BaseException, verbose: bool, about: str = "") -> None:
    """Print an error to standard error.

    Args:
        verbose: print its traceback before it.
        about: what it is about, if that has to be said.
    """
    if verbose:
        traceback.print_exception(error)
    print(f"shoal: {about}{one_line(error)}", file=sys.stderr, flush=True)
