"""Files that are never half written, and what becomes of damaged ones. No torch here."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that at every moment either the whole old one or the whole new one is there.

    Text is UTF-8. After an error, as of a full disk, the old file is there and nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
