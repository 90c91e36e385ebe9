"""Uploads of a model folder: model, index and card in one commit."""

import os

from huggingface_hub import HfApi

# What a training run leaves beside the model and nobody should download.
PRIVATE_PATTERNS = ["stages/**", "cache/**", "runs/**", "**/training_args.bin", ".*"]


def upload_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload an LMIndexer",
    revision: str | None = None,
) -> str:
    """Uploads a folder to a Hub repository, which is made when there is none.

    Args:
        folder: what `run_indexing.py` wrote, or any part of it.
        repo_id: such as `"org/lmindexer-beauty"`.
        private: visibility of a repository that is made.
        token: access token; default the one of `hf auth login`.

    Returns:
        the address of the commit.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        folder_path=folder,
        repo_id=repo_id,
        commit_message=commit_message,
        revision=revision,
        ignore_patterns=PRIVATE_PATTERNS,
    )
    return commit.commit_url
