"""Tests see what the package's doors see: the related systems too."""

import pytest
import torch

from paperlib.study import extensions

extensions.load()
collect_ignore = ["tools"]  # they start other programs: make test-tools


@pytest.fixture(scope="module")
def one_thread():
    """For tiny tensors, where a second thread costs more than it does, and for bits, which the
    number of threads changes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
