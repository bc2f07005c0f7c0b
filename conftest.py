"""What every test and doctest shares."""

import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _names_of_doctests(doctest_namespace):
    doctest_namespace["torch"] = torch
