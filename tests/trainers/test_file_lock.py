"""A lock is held once, and ends with its block."""

from trainers.file_lock import held


def test_held_once(tmp_path):
    path = tmp_path / "folder" / "a.lock"
    with held(path) as first, held(path) as second, held(tmp_path / "b.lock") as other:
        assert (first, second, other) == (True, False, True)
    with held(path) as again:
        assert again
