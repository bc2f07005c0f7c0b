"""Progress in the terminal, of all processes that work on a store."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..study.store import Store


@contextmanager
def following(store: Store) -> Iterator[None]:
    """Print the lines that any process appends to the progress file, while the body runs."""
    store.progress.parent.mkdir(parents=True, exist_ok=True)
    store.progress.touch()
    stop = threading.Event()

    def follow() -> None:
        with open(store.progress, encoding="utf-8") as file:
            file.seek(0, 2)
            while True:
                last = stop.is_set()
                print(file.read(), end="", flush=True)
                if last:
                    return
                stop.wait(0.5)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
