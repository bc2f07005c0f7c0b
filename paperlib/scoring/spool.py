"""Rows that do not fit into memory: written to a file without a name, read by mapping it."""

import mmap
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 1 << 20  # numbers that are read at a time


class Spool:
    """(N, width) float32, appended row by row. The file goes away with it, even if it is killed.

    It lies in the folder for temporary files, $TMPDIR. A page that was read does not stay in this
    process's memory.

    >>> spool = Spool(2)
    >>> spool.append(torch.ones(3, 2))
    >>> len(spool), spool.rows(np.array([0, 2])).shape
    (3, torch.Size([2, 2]))
    """

    def __init__(self, width: int):
        self.width, self.length = width, 0
        self.file = tempfile.TemporaryFile()
        self.map: mmap.mmap | None = None

    def __del__(self):
        self.file.close()

    def __len__(self) -> int:
        return self.length

    def append(self, rows: Tensor) -> None:
        """Write (B, width) float rows at the end."""
        self.file.write(rows.float().cpu().contiguous().numpy().tobytes())
        self.length, self.map = self.length + len(rows), None

    def rows(self, places: np.ndarray | slice) -> Tensor:
        """(B, width) float32, a copy on the CPU."""
        if self.map is None:
            self.file.flush()
            self.map = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)
        whole = np.frombuffer(self.map, np.float32).reshape(self.length, self.width)
        chosen = torch.from_numpy(whole[places].copy())
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows, which drops pages by itself
            self.map.madvise(mmap.MADV_DONTNEED)
        return chosen

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, some at a time, and their places."""
        step = max(1, AT_ONCE // self.width)
        for start in range(0, self.length, step):
            places = slice(start, min(start + step, self.length))
            yield places, self.rows(places)
