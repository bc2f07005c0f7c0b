"""Files that are never half written, and what becomes of damaged ones. No torch here."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that at every moment either the whole old one or the whole new one is there.

    Text is UTF-8; a stray byte in the name of a file becomes an escape, as JSON reads it. After an
    error, as of a full disk, the old file is there and nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there. Raises OSError if no file can be written into it, which is
    better known before the work than after it.

    >>> make_folder(Path(tempfile.mkdtemp(), "a/b"))
    """
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def printable(text: str) -> str:
    """The text on one line, with an escape for what a terminal obeys or cannot show: the name of a
    file may hold anything.

    >>> printable("a\\nb\\x1b[2J\\udcff")
    'a\\\\nb\\\\x1b[2J\\\\udcff'
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def set_aside(path: Path) -> Path:
    """Rename a file, or whatever is in its place, to NAME.rejected or NAME.rejected-2 and so on.
    Nothing is overwritten. Returns the new path.
    """
    aside, number = path.with_name(f"{path.name}.rejected"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.rejected-{number}")
    os.replace(path, aside)
    return aside
