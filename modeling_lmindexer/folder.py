"""The files of a model folder: written atomically, listed with their hashes, found on disk or on the Hub."""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from transformers.utils import cached_file

MANIFEST_NAME = "manifest.json"
PARTIAL_PREFIX = ".writing-"  # of names that a file or folder has until it is whole
UPDATE_NAME = ".index-update"  # a folder of files that are whole, on their way to their names
FORMAT_VERSION = 1
ON_WINDOWS = os.name == "nt"  # which opens no folder, and flushes no file that is only read
Reader = TypeVar("Reader", bound=Callable)


class CorruptedFolderError(ValueError):
    """A file of a model folder is missing, truncated or not the one that its manifest lists."""


class WriteError(OSError):
    """A file could not be written: the disk is full, or does not let it."""


@contextlib.contextmanager
def naming_write_errors(path: str | os.PathLike) -> Iterator[None]:
    """Raises WriteError, with the path and the cause, for what the libraries that write raise when the disk refuses.

    safetensors and tokenizers raise their own kinds of exceptions, torch a RuntimeError without a cause, Python an
    OSError that may name no file; one that names its file passes through, as everything else does.
    """
    try:
        yield
    except Exception as error:
        cause = refusal_of_disk(error)
        if cause is None:
            raise
        raise WriteError(
            f"{path} could not be written: {cause}. What was there under its name is still there. Make room, or let "
            "this process write there; the same command then goes on."
        ) from error


def refusal_of_disk(error: Exception) -> str | None:
    """Why an error of a library says that a disk refused a file; None when it says something else."""
    number = re.search(r"\(os error (\d+)\)", str(error))  # as the libraries in Rust end their messages
    if number:
        return os.strerror(int(number[1]))
    if isinstance(error, OSError):
        # BlockingIOError and the like have a number, too, but no meaning here.
        named = error.filename is not None or isinstance(error, WriteError) or error.errno is None
        return None if named else os.strerror(error.errno)
    if isinstance(error, RuntimeError) and re.search(r"inline_container|PytorchStreamWriter|iostream", str(error)):
        return "the disk took only a part of it, as it does when it is full"
    return None


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed onto it when the block ends well and removed when it does not.

    ```python
    >>> with atomic_path("codes.json") as temporary:  # doctest: +SKIP
    ...     temporary.write_text("[]")
    ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    finish_update(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{PARTIAL_PREFIX}{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        with naming_write_errors(path):
            yield temporary
        # The writer may have put a new file in this one's place: what counts is the content under the name.
        _sync(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial(folder: str | os.PathLike, deep: bool = False) -> None:
    """Removes what writers that were killed left in a folder, and if `deep` in the folders in it; nobody may be
    writing there."""
    folder = Path(folder)
    for prefix in (PARTIAL_PREFIX, f"{UPDATE_NAME}-"):
        for path in list(folder.rglob(f"{prefix}*") if deep else folder.glob(f"{prefix}*")):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced_together(folder: str | os.PathLike, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yields an empty folder; the files written there get their names in `folder` all at once, or none of them does.

    They and their manifest are made whole beside the old ones, then given up to be moved by renaming the folder that
    they lie in. Killed before, the old files stay; killed while they are moved, whoever looks next
    ([`finish_update`]) moves the rest, and until then they are found where they are.

    Args:
        folder: made when there is none. Its manifest, if it has one, lists the new files.
        without: files of `folder` that go, unless they are among the new ones.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    finish_update(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{UPDATE_NAME}-") as name:
        new = Path(name) / "files"
        new.mkdir()
        yield new
        names = sorted(path.name for path in new.iterdir())
        if (folder / MANIFEST_NAME).exists():
            listed = read_manifest(folder / MANIFEST_NAME)["files"] | manifest_entries(new, names)
            left = [n for n in sorted(listed) if n in names or n not in without and (folder / n).is_file()]
            write_json(new / MANIFEST_NAME, {"format_version": FORMAT_VERSION, "files": {n: listed[n] for n in left}})
        for path in (*(new / name for name in names), new):
            _sync(path)
        os.rename(new, folder / UPDATE_NAME)
    finish_update(folder)
    for name in set(without) - set(names):
        (folder / name).unlink(missing_ok=True)


def finish_update(folder: Path) -> None:
    """Moves what [`replaced_together`] left to move, the manifest last. Without anything to move it does nothing.

    Raises:
        OSError: the folder cannot be written to.
    """
    update = folder / UPDATE_NAME
    if not update.is_dir():
        return
    for name in sorted((path.name for path in update.iterdir()), key=lambda name: (name == MANIFEST_NAME, name)):
        with contextlib.suppress(FileNotFoundError):  # somebody else has just moved it
            os.replace(update / name, folder / name)
    _sync(folder)
    with contextlib.suppress(FileNotFoundError):
        update.rmdir()


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if ON_WINDOWS and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | os.PathLike, value) -> None:
    """Writes `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: str | os.PathLike, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, atomically. Equal content gives equal bytes: entries of `metadata` are sorted, which
    the library itself leaves in another order every time."""
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
        with open(temporary, "r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) | {"__metadata__": dict(sorted(metadata.items()))}
            file.seek(8)
            file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def resolve_file(
    name_or_path: str | os.PathLike, filename: str, *, optional: bool = False, **hub_kwargs
) -> Path | None:
    """Path of `filename` in a local folder or in the cached copy of a Hub repository.

    Args:
        name_or_path: a folder, or a repository id such as `"org/lmindexer-beauty"`.
        filename: the file's name inside it.
        optional: return `None` instead of raising when there is no such file.
        hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, as in `from_pretrained`.

    Raises:
        FileNotFoundError: no such folder, repository or file.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        place = folder / hub_kwargs.get("subfolder", "")
        with contextlib.suppress(OSError):  # of a folder that is only to be read, its update is read where it lies
            finish_update(place)
        for path in (place / UPDATE_NAME / filename, place / filename):
            if path.is_file():
                return path
        if os.path.lexists(path):
            kind = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "no regular file"
            raise FileNotFoundError(f"{path} is {kind}; expected a file. Download or write the folder again.")
        if optional:
            return None
        present = sorted(entry.name for entry in folder.iterdir())
        raise FileNotFoundError(
            f"{folder} holds no {filename}: found {present or 'nothing'}. Give a folder that run_indexing.py wrote."
        )
    if optional:
        hub_kwargs |= {
            "_raise_exceptions_for_missing_entries": False,
            "_raise_exceptions_for_connection_errors": False,
            "_raise_exceptions_for_gated_repo": False,
        }
    try:
        found = cached_file(str(name_or_path), filename, **hub_kwargs)
    except OSError as error:
        if optional:
            return None
        raise FileNotFoundError(
            f"{name_or_path} is no local folder, and no Hub repository with {filename} that can be reached: {error}"
        ) from error
    return None if found is None else Path(found)


@contextlib.contextmanager
def reading_content(path: str | os.PathLike, way_out: str) -> Iterator[None]:
    """Raises CorruptedFolderError, with the path and what to do, for whatever a reader of damaged files raises.

    Args:
        path: of the file or folder that is read.
        way_out: a sentence for the user.
    """
    try:
        yield
    except CorruptedFolderError:
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise CorruptedFolderError(f"{path} cannot be read: {error}. {way_out}") from error
    # What a parser stumbles over has no common kind: KeyError, UnpicklingError, RuntimeError, SafetensorError, ..
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        cause = f"{type(error).__name__}: {lines[0][:200]}"
        raise CorruptedFolderError(f"{path} does not hold what was written there ({cause}). {way_out}") from error


def reading_again(read: Reader) -> Reader:
    """Decorates a reader of a folder that another process may replace: what does not fit together is read once more.

    [`replaced_together`] moves files one after the other, and a reader has looked at some of them before.
    """

    @functools.wraps(read)
    def read_at_most_twice(*args, **kwargs):
        try:
            return read(*args, **kwargs)
        except CorruptedFolderError:
            pass
        except FileNotFoundError as error:
            if error.errno is None:  # it was not there, and has not gone since
                raise
        return read(*args, **kwargs)

    return read_at_most_twice


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: str | os.PathLike) -> dict:
    """The manifest at `path`, checked for its shape and format version.

    Raises:
        CorruptedFolderError: not JSON, not a manifest, or of a newer format than this package reads.
    """
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
        version, files = manifest["format_version"], manifest["files"]
        well_formed = type(version) is int and all(
            type(entry.get("size")) is int and type(entry.get("sha256")) is str for entry in files.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise CorruptedFolderError(f"{path} is not a manifest ({error!r}); write the folder again.") from error
    if not well_formed:
        raise CorruptedFolderError(f"{path} is not a manifest: its entries lack a size or a hash; write it again.")
    if version > FORMAT_VERSION:
        raise CorruptedFolderError(
            f"{path} has format version {version}, this package reads up to {FORMAT_VERSION}: upgrade lmindexer."
        )
    return manifest


def manifest_entries(folder: str | os.PathLike, filenames: list[str]) -> dict[str, dict]:
    """Size and hash of files in `folder`, by name."""
    paths = {name: Path(folder) / name for name in filenames}
    return {name: {"size": path.stat().st_size, "sha256": file_digest(path)} for name, path in paths.items()}


def update_manifest(folder: str | os.PathLike, filenames: list[str]) -> None:
    """Lists files of `folder` in its manifest with size and hash; entries of vanished files are dropped."""
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    files = read_manifest(path)["files"] if path.exists() else {}
    files |= manifest_entries(folder, filenames)
    files = {name: files[name] for name in sorted(files) if (folder / name).is_file()}
    write_json(path, {"format_version": FORMAT_VERSION, "files": files})


def verify_files(paths: list[Path], manifest_path: Path | None) -> None:
    """Compares files with the manifest of their folder; without a manifest there is nothing to compare with.

    Raises:
        CorruptedFolderError: names the file, what was found and what the manifest lists.
    """
    if manifest_path is None:
        return
    files = read_manifest(manifest_path)["files"]
    for path in paths:
        folder, name = listed_as(path, manifest_path)
        entry = files.get(name)
        if entry is None:
            continue
        size = path.stat().st_size
        if size != entry["size"]:
            raise CorruptedFolderError(
                f"{path} has {size:,} bytes, its manifest lists {entry['size']:,}: the file is truncated or was "
                "replaced. Download or write the folder again."
            )
        if file_digest(path) != entry["sha256"]:
            raise CorruptedFolderError(
                f"{path} differs from the file that its manifest lists (SHA-256). Download or write the folder again; "
                f"if you changed it on purpose, run modeling_lmindexer.folder.update_manifest({str(folder)!r}, "
                f"[{name!r}])."
            )


def listed_as(path: Path, manifest_path: Path) -> tuple[Path, str]:
    """The folder of a file and the name under which the folder's manifest lists it; either of them may still be on its
    way, as [`replaced_together`] left it."""
    folder = manifest_path.parent
    folder = folder.parent if folder.name == UPDATE_NAME else folder
    for place in (folder / UPDATE_NAME, folder):
        if path.is_relative_to(place):
            return folder, path.relative_to(place).as_posix()
    return path.parent, path.name  # of another version of a Hub repository, which lies in another folder
