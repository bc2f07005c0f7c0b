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


CELL = """
import os
from paperlib.basics import progress as room
os.environ.pop("PYTEST_CURRENT_TEST", None)
os.environ.update({})
room.AFTER = room.EVERY = 0
with room.progress("things", 2) as advance:
    advance(1), advance(1)
"""


def test_a_notebook_that_somebody_looks_at_has_a_display_that_goes_away(monkeypatch, tmp_path):
    """A kernel of papermill or nbval has no notebook server, which says so in its environment."""
    from jupyter_client import KernelManager

    for name in room.LOOKED_AT:
        monkeypatch.delenv(name, raising=False)
    kernel, seen = KernelManager(transport="ipc", ip=str(tmp_path / "k")), []
    kernel.start_kernel()
    client = kernel.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        for looked_at in ({}, {"JPY_SESSION_NAME": "a.ipynb"}):
            cell, messages = CELL.replace("{}", repr(looked_at)), []
            client.execute_interactive(cell, timeout=60, output_hook=messages.append)
            shown = [
                m for m in messages if m["header"]["msg_type"] not in ("status", "execute_input")
            ]
            seen.append(
                [(m["header"]["msg_type"], m["content"]["data"]["text/html"]) for m in shown]
            )
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    nothing, ((first, text), *updates) = seen
    assert nothing == [] and first == "display_data" and "1 of 2" in text
    assert {kind for kind, _ in updates} == {"update_display_data"} and updates[-1][1] == ""
