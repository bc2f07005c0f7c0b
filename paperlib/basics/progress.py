"""Progress of what takes longer than two seconds, in one line. No torch here.

It is shown on a terminal, and in a notebook that somebody looks at, where the line goes away at the
end. Nothing is shown into a file, under papermill, nbval or pytest, or with PAPERLIB_PROGRESS=0:
what a cell writes would count as its output.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AFTER, EVERY = 2.0, 0.2  # seconds
WIDTH = 24  # characters of the bar
# A notebook server says in a kernel's environment whose notebook it is. Papermill and nbval start
# kernels without one.
LOOKED_AT = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")

Show = Callable[[str], None]


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A block of long work: gives a function to call with the number of things just done.

    what   is being done, in a word or two. total  things in all; None if nobody knows.

    >>> with progress("images", total=3) as advance:
    ...     for image in range(3):
    ...         advance(1)
    """
    show, began = _screen(), time.monotonic()
    done, shown = 0, 0.0

    def advance(things: int) -> None:
        nonlocal done, shown
        done, now = done + things, time.monotonic()
        if show and now - began >= AFTER and now - shown >= EVERY:
            show(line(what, done, total, now - began))
            shown = now

    try:
        yield advance
    finally:
        if show and shown:
            show("")


def line(what: str, done: int, total: int | None, seconds: float) -> str:
    """
    >>> line("ranking", 500, 1000, 10.0)
    'ranking [############............] 500 of 1000, 50.0/s, 10 s left'
    >>> line("ranking", 500, None, 10.0)
    'ranking 500, 50.0/s'
    """
    rate = done / seconds
    if total is None or done > total:
        return f"{what} {done}, {rate:.1f}/s"
    full = WIDTH * done // max(total, 1)
    left = f"{(total - done) / rate:.0f} s left" if done else "waiting"
    return f"{what} [{'#' * full:.<{WIDTH}}] {done} of {total}, {rate:.1f}/s, {left}"


def looked_at() -> bool:
    """Whether this is the kernel of a notebook that somebody has open, not papermill's or nbval's.

    >>> looked_at()
    False
    """
    return "ipykernel" in sys.modules and any(name in os.environ for name in LOOKED_AT)


def _screen() -> Show | None:
    """What shows a line in the place of the last one; None where nobody looks."""
    if os.environ.get("PAPERLIB_PROGRESS") == "0" or "PYTEST_CURRENT_TEST" in os.environ:
        return None
    if "ipykernel" in sys.modules:
        return _notebook() if looked_at() else None
    return _terminal if sys.stderr is not None and sys.stderr.isatty() else None


def _terminal(text: str) -> None:
    sys.stderr.write(f"\r\033[K{text}")
    sys.stderr.flush()


def _notebook() -> Show:
    """A display of its own in the cell. An empty line leaves nothing to see."""
    from IPython.display import HTML, display

    handle = None

    def show(text: str) -> None:
        nonlocal handle
        shown = HTML(f"<code>{text}</code>" if text else "")
        if handle is None:
            handle = display(shown, display_id=True)
        else:
            handle.update(shown)

    return show
