"""Rows of a benchmark in one file that several processes append to."""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

KEY = ("kind", "family", "set", "method", "sizes", "seed", "settings")


class Results:
    """`results.jsonl` of a folder: a JSON object per line. What is in it is not measured again.

    A process claims a row while it measures it, so that another one goes on to the next; a claim is a file lock, which
    ends with its process however that ends.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "results.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._read: dict[str, dict] = {}
        self._place = 0

    def rows(self, **chosen) -> list[dict]:
        """The rows that have the values of `chosen`, the newest of equal keys, in the order in which they came."""
        self._read_on()
        return [row for row in self._read.values() if all(row.get(name) == value for name, value in chosen.items())]

    def find(self, key: dict) -> dict | None:
        """The row of a key, if it is there."""
        self._read_on()
        return self._read.get(_text(key))

    def row(self, key: dict, measure: Callable[[], dict], wait: bool = False) -> dict | None:
        """The row of a key, measured and written unless it is there.

        Args:
            key: values of all names in `KEY`.
            measure: the other columns.
            wait: for another process that measures it; otherwise the result is then None.
        """
        if set(key) != set(KEY):
            raise ValueError(f"a row is known by {', '.join(KEY)}, not by {', '.join(key)}")
        found = self.find(key)
        if found is None:
            with self._claim(key, wait) as claimed:
                found = self.find(key)
                if claimed and found is None:
                    found = key | measure()
                    self._append(found)
        return found

    def name(self, key: dict) -> str:
        """A name for files of a row, the same for the same key."""
        return hashlib.sha256(_text(key).encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def _claim(self, key: dict, wait: bool) -> Iterator[bool]:
        """Holds the row's lock; yields whether it could be had."""
        path = self.folder / "claims" / self.name(key)
        path.parent.mkdir(exist_ok=True)
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
                path.unlink(missing_ok=True)  # whoever waits for it finds the row

    def _append(self, row: dict) -> None:
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        with open(self.path, "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a stop cut the last row off
                    line = b"\n" + line
            file.write(line)

    def _read_on(self) -> None:
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # not whole yet
                self._place += len(line)
                with contextlib.suppress(json.JSONDecodeError):  # what a stop cut off is measured again
                    row = json.loads(line)
                    self._read[_text({name: row[name] for name in KEY})] = row


def _text(key: dict) -> str:
    return json.dumps(key, sort_keys=True)
