"""Uploads of a model folder, or of parts of it, that leave the repository's manifest true."""

import json
import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects

from .folder import MANIFEST_NAME, finish_update, manifest_entries, read_manifest
from .hub_upload import RepositoryFiles, check_links

# What training leaves beside the model and nobody should download; anywhere, what hides, or only this computer needs.
PRIVATE_FOLDERS = ("stages", "adapted", "learning_rates", "cache", "parts", "runs", "trackio", "wandb", "mlruns")
PRIVATE_PATTERNS = [
    *(f"{name}/**" for name in PRIVATE_FOLDERS), "checkpoint-*/**", "*training_args.bin", "*events.out.tfevents.*",
    ".*", "*/.*", "__pycache__/**", "*/__pycache__/**",
]  # fmt: skip


def joined_manifest(
    folder: str | os.PathLike, repo_id: str, token: str | None = None, revision: str | None = None
) -> bytes | None:
    """The manifest of a repository with the files of `folder` in it.

    Returns:
        its content, or nothing when the repository has none or the folder brings its own.
    """
    folder = Path(folder)
    if (folder / MANIFEST_NAME).exists():
        return None
    api = HfApi(token=token)
    try:
        path = api.hf_hub_download(repo_id, MANIFEST_NAME, revision=revision)
    except EntryNotFoundError:
        return None
    except RevisionNotFoundError:  # a branch to be made, from main
        return joined_manifest(folder, repo_id, token)
    manifest = read_manifest(path)
    manifest["files"] |= manifest_entries(folder, files_of(folder))
    return json.dumps(manifest, indent=2, sort_keys=True).encode()


def files_of(folder: str | os.PathLike) -> list[str]:
    """What of a folder is uploaded: all files, less the private ones."""
    files = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    return list(filter_repo_objects(files, ignore_patterns=PRIVATE_PATTERNS))


def uploaded_files(folder: str | os.PathLike) -> dict[str, Path | bytes]:
    """The files of [`files_of`] by their names.

    Raises:
        UploadError: one of them is a link that leads out of the folder.
    """
    files: dict[str, Path | bytes] = {name: Path(folder) / name for name in files_of(folder)}
    check_links(Path(folder), files)
    return files


def upload_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload an LMIndexer",
    revision: str | None = None,
) -> str:
    """Uploads a folder in one commit to a Hub repository, which is made when there is none.

    Large files go first; stopped, the next upload goes on. To publish a model folder with its card and IDs, see
    `trainers.publishing`.

    Args:
        folder: what `run_indexing.py` wrote, or any part of it.
        repo_id: such as `"org/lmindexer-beauty"`.
        private: visibility of a repository that is made.
        token: access token; default the one of `hf auth login`.
        revision: a branch, made from main when there is none.

    Returns:
        the address of the commit.

    Raises:
        FileNotFoundError: no such folder, or nothing in it.
        UploadError: the Hub does not take it, or cannot be reached; or a link leads out of the folder.
    """
    finish_update(Path(folder))
    files = uploaded_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder} holds nothing to upload: give a folder that run_indexing.py wrote.")
    api, content = HfApi(token=token), RepositoryFiles(repo_id, files, whole=MANIFEST_NAME in files)
    content.open(api, private, revision)
    manifest = joined_manifest(folder, content.repo_id, token, revision)
    if manifest is not None:
        files[MANIFEST_NAME] = manifest
    return content.send(api, commit_message, revision)
