import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in every test, whichever tests run before it."""
    torch.manual_seed(0)
