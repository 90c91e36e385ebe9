"""One run per folder: a lock that its process holds, and that ends with the process however that ends."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

_A_MOMENT = 0.2  # seconds; what another process needs to let go of a lock that it is just removing


class FolderInUseError(OSError):
    """Another run is writing into the folder."""


class FolderLock:
    """Held while a run writes into a folder; a second run is refused. `kill -9` releases it as well.

    It is the system's lock on the file `.{name}.lock` of the folder (flock; on Windows msvcrt's), so that there is no
    stale one. The thread that holds it may take it again. On a file system without such locks, `filelock` warns and
    makes do with the file itself, which outlives a killed process; the message says which one to delete.

    ```python
    >>> with FolderLock("outputs/items"):  # doctest: +SKIP
    ...     train()

    ```

    Args:
        folder: made when it is not there.
        name: of what is done there, where a folder has several locks, such as one per shard.
        wait: called again and again until the other has ended, instead of being refused; may raise, to give up.

    Raises:
        FolderInUseError: (on entering) another run holds it; names its process, host and start.
        OSError: (on entering) the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, name: str = "run", wait: Callable[[], None] | None = None):
        self.folder, self.name, self.wait = Path(folder), name, wait
        self.path = self.folder / f".{name}.lock"
        self._lock: FileLock | None = None
        self._is_new = False

    def __enter__(self) -> "FolderLock":
        self._is_new = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        # The same object for the same file: a process that holds the lock is not refused by itself.
        lock = FileLock(self.path.resolve(), is_singleton=True)
        while not self._take(lock):
            if self.wait is None:
                raise FolderInUseError(
                    f"{self.folder} is in use by another {self.name}, {self.holder()}. Wait for it or stop it, or "
                    f"choose another folder. (If there is no such process, delete {self.path}.)"
                )
            self.wait()
        self._lock = lock
        if lock.lock_counter == 1:
            mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            with contextlib.suppress(PermissionError):  # Windows lets nobody write what is locked
                self.path.write_text(json.dumps(mine), encoding="utf-8")
        return self

    def _take(self, lock: FileLock) -> bool:
        try:
            lock.acquire(timeout=_A_MOMENT)
        except Timeout:
            return False
        return True

    def __exit__(self, *error) -> None:
        lock, self._lock = self._lock, None
        if lock.lock_counter == 1:
            # While it is held: who opened it in between finds that it is gone, and tries again.
            with contextlib.suppress(OSError):
                self.path.unlink()
                if self._is_new:
                    self.folder.rmdir()  # unless there is something in it now
        lock.release()

    def holder(self) -> str:
        """Who holds it, as far as that can be read."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {found['pid']} on {found['host']} since {found['since']}"
        except (OSError, ValueError, KeyError, TypeError):  # just taken, or not readable while it is held
            return "an unknown process"
