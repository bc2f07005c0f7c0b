"""Progress is seen on a terminal alone, and only of what takes long."""

import io
import sys

import pytest

from paperlib.basics import progress as room
from paperlib.basics.progress import progress


class Screen(io.StringIO):
    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def written(monkeypatch, terminal, seconds=3.0, **environment):
    """What ten steps write to stderr within so many seconds, on a clock of their own."""
    screen, clock = Screen(terminal), iter(x * seconds / 10 for x in range(100))
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    monkeypatch.setattr(room.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with progress("things", 10) as advance:
        for _ in range(10):
            advance(1)
    return screen.getvalue()


def test_a_bar_on_a_terminal_that_goes_away(monkeypatch):
    text = written(monkeypatch, terminal=True)
    assert "9 of 10" in text and text.endswith("\r\033[K")


@pytest.mark.parametrize(
    "how",
    [
        {"terminal": False},
        {"terminal": True, "seconds": 1.0},
        {"terminal": True, "PAPERLIB_PROGRESS": "0"},
        {"terminal": True, "PYTEST_CURRENT_TEST": "nbval"},
    ],
)
def test_silence(monkeypatch, how):
    assert written(monkeypatch, **how) == ""


def test_a_kernel_nobody_looks_at_is_silent(monkeypatch):
    """Papermill's and nbval's kernels have ipykernel, but no notebook server."""
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    for name in room.LOOKED_AT:
        monkeypatch.delenv(name, raising=False)
    assert room._screen() is None
