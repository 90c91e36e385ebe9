"""One run per folder, until its process ends."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainers.folder_lock import FolderInUseError, FolderLock

ROOM = Path(__file__).parents[2] / "trainers"
HOLD = """
import os, sys, time
from folder_lock import FolderLock  # without the package, which takes seconds
with FolderLock(sys.argv[1]):
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(60)  # as a worker of a data loader, which may outlive the one that is killed
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder, how="alone"):
    """A process that holds the lock of a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOM)}
    command = [sys.executable, "-c", HOLD, str(folder), how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True, start_new_session=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    """Ends it and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, how):
    process = holder(tmp_path / "run", how)
    try:
        with pytest.raises(FolderInUseError, match=rf"process {process.pid} on .* since 20\d\d-") as error, \
                FolderLock(tmp_path / "run"):  # fmt: skip
            pass
        assert str(tmp_path / "run") in str(error.value) and "\n" not in str(error.value)
        process.kill()
        process.wait()
        with FolderLock(tmp_path / "run") as lock:
            assert lock.holder().startswith(f"process {os.getpid()} on ")
    finally:
        end(process)
    assert list((tmp_path / "run").iterdir()) == []


def test_the_one_who_holds_it_may_take_it_again(tmp_path):
    with FolderLock(tmp_path):
        with FolderLock(tmp_path / "." / ""):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
    assert list(tmp_path.iterdir()) == []


def test_another_thread_and_another_name(tmp_path):
    found = []

    def other():
        try:
            with FolderLock(tmp_path):
                found.append("entered")
        except FolderInUseError:
            found.append("refused")
        with FolderLock(tmp_path, "shard-3"):
            found.append("entered")

    with FolderLock(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == ["refused", "entered"]


def test_waiting_for_the_other(tmp_path):
    process, looked = holder(tmp_path), []

    def wait():
        looked.append(time.monotonic())
        if len(looked) == 2:
            end(process)

    with FolderLock(tmp_path, wait=wait):
        assert len(looked) >= 2


def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(KeyboardInterrupt), FolderLock(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_holder_may_be_unknown(tmp_path):
    process = holder(tmp_path)
    try:
        (tmp_path / ".run.lock").write_text("")
        with pytest.raises(FolderInUseError, match="an unknown process"), FolderLock(tmp_path):
            pass
    finally:
        end(process)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), FolderLock(tmp_path / "file" / "run"):
        pass


def test_a_lock_that_lets_nobody_write_its_file(tmp_path, monkeypatch):
    """As on Windows, where what is locked is locked against its holder's other handles, too."""

    def refuse(self, *args, **settings):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    with FolderLock(tmp_path / "run") as lock:
        assert lock.holder() == "an unknown process"
    assert not (tmp_path / "run").exists()
