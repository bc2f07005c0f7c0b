"""Errors of failed downloads."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def explained(name: str, root: Path, *by_hand: str) -> Iterator[None]:
    """Turn a failed download into an error that names the ways to get the data."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # urllib, which torchvision uses, would wait for ever
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        ways = [f"let it be downloaded (tried just now: {reason})", *by_hand]
        listed = "\n".join(f"  {i}. {way}" for i, way in enumerate(ways, start=1))
        text = f"{name} is not in {root.resolve()} (set by $PAPERLIB_DATA). Ways to get it:"
        raise FileNotFoundError(f"{text}\n{listed}") from error
    finally:
        socket.setdefaulttimeout(timeout)
