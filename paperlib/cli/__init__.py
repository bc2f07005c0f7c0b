"""The command line.

experiments.py  the runs of this repository: run, reproduce, compare, status, figures, notebooks,
                methods
own.py          a teacher and images of one's own: rank
students.py     low-bit students of one's own: train, export
options.py      what several commands take
"""

import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from ..basics.files import printable
from ..study import extensions
from . import experiments, own, students

FAILED, MISUSED, INTERRUPTED = 1, 2, 130  # exit statuses beside 0
RESUMABLE = ("run", "reproduce", "train")

app = typer.Typer(name="paperlib", pretty_exceptions_enable=False)
for command in (*own.COMMANDS, *students.COMMANDS, *experiments.COMMANDS):
    app.command()(command)


@app.callback()
def _paperlib(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="show where an error comes from, for developers")
    ] = False,
) -> None:
    """Which data augmentation should train a low-bit student? Score them with the teacher alone.

    Exit status: 0 done, 1 failed, 2 wrong options, 130 interrupted. An error is one line.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status. `--traceback` may stand anywhere."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    developer = "--traceback" in words
    words = [word for word in words if word != "--traceback"] or ["--help"]
    sys.stdout.reconfigure(errors="backslashreplace")  # paths that the terminal cannot show
    try:
        extensions.load()
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            status = app(words, prog_name="paperlib", standalone_mode=False) or 0
        if status == INTERRUPTED:  # typer makes a status of Ctrl-C, without a word
            raise KeyboardInterrupt
        return status
    except typer.TyperException as error:
        # typer's message seldom has the value
        return _failed(f"{error.format_message()}; in: paperlib {shlex.join(words)}", MISUSED)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        resumes = ": the same command resumes" if words[0] in RESUMABLE else ""
        print(f"interrupted{resumes}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if developer:
            raise
        return _failed(_described(error), FAILED)


def _described(error: Exception) -> str:
    """An error in words. Of one that the package does not raise on purpose, as from a network of
    the user's own, the kind belongs to it.
    """
    kinds = ValueError | TypeError | OSError | RuntimeError | ImportError | FloatingPointError
    kind, text = type(error).__name__, str(error)
    if "\nOriginal Traceback" in text:  # of a process that reads pictures; its end is the error
        text = re.split(rf"\n[\w.]*{kind}: ", text)[-1].rstrip()
    return text if isinstance(error, kinds) and text else f"{kind}: {text}; --traceback shows where"


def _failed(reason: str, status: int) -> int:
    print(printable("failed: " + re.sub(r"\s*\n\s*", " ", reason)), file=sys.stderr)
    return status


def _warn(message: Warning, *_where, **_more) -> None:
    """A warning as one line of text; the line of code that it names says nothing to a user."""
    print(printable(f"warning: {message}"), file=sys.stderr)
