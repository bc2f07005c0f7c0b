"""What every test and doctest shares."""

import os

import pytest
import torch

# Workers of pytest-xdist share the cores: with two threads each they would wait for each other.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def _names_of_doctests(doctest_namespace):
    doctest_namespace["torch"] = torch
