"""Whole runs are short here, except for the full garbage collection with which transformers begins each stage."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def imports_are_no_garbage():
    """Takes the hundred thousands of objects that the imports made out of those collections, 0.3 s each."""
    import tiny_training  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
