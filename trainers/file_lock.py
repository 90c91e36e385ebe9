"""A lock that ends with the process that holds it, however that ends."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Holds the lock of a file for the time of the block, or finds that another process does.

    The file stays: a lock on a file that is removed is no lock. Network file systems without `flock` are not for this.

    Returns:
        whether the lock is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
