"""pyarrow, from when the first table is read or written: importing the model takes no part of it."""


def arrow():
    """The module `pyarrow`, with its parts `compute` and `parquet`.

    Raises:
        ImportError: there is none; a published model answers without it as long as no table is needed.
    """
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("The tables of a model folder need pyarrow: pip install pyarrow") from error
    return pyarrow


def unreadable() -> tuple[type[Exception], ...]:
    """What reading raises where a file is not what it says."""
    errors = (OSError, KeyError, TypeError, ValueError, MemoryError, OverflowError, RecursionError)
    return (*errors, arrow().ArrowException)
