"""What a Hub repository is to hold: written to a folder, or sent in one commit, which a stopped upload goes on to."""

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import get_session, get_token, hf_raise_for_status

from .folder import MANIFEST_NAME, CorruptedFolderError, read_manifest

PART_BYTES = 10**9  # of large files that are sent before the next are looked at
# Of a file in the Hub client's cache: of a repository, or of all of them.
CACHED = re.compile(r"/((models|datasets|spaces)--[^/]+/blobs|blobs/[0-9a-f]{2})/[0-9a-f]{40,64}$")
GOES_ON = "The same command then goes on: what has arrived is not sent again."


class UploadError(OSError):
    """The Hub, or the way to it, did not take an upload, or it may not leave this computer; says what to do."""


@dataclass
class RepositoryFiles:
    """Content of one repository.

    Attributes:
        repo_id: owner and name.
        files: content, or where it lies, by path in the repository.
        repo_type: `model`, `dataset` or `space`.
        marks: a repository that holds files and none of these is something else, which is left alone.
        leaving: files that go if they are in the repository and not among `files`.
        whole: whether all others that its manifest lists go, too, and not only those that are replaced.
        variables: of a Space.
    """

    repo_id: str
    files: dict[str, Path | bytes]
    repo_type: str = "model"
    marks: Collection[str] = ()
    leaving: Collection[str] = ()
    whole: bool = False
    variables: dict[str, str] = field(default_factory=dict)
    present: set[str] = field(default_factory=set, init=False, repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }

    def write(self, folder: str | os.PathLike) -> None:
        """Writes to a folder what an upload would send."""
        for name, content in self.files.items():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content) if isinstance(content, bytes) else shutil.copyfile(content, target)

    def open(self, api: HfApi, private: bool | None = None, revision: str | None = None) -> None:
        """Makes the repository if there is none, and finds out whether these files may go there; sends none of them.

        Raises:
            UploadError: they may not, or the Hub does not answer.
        """
        where = {"repo_id": self.repo_id, "repo_type": self.repo_type}
        with naming_refusals(self.repo_id, api):
            self.check_card(api)
            sdk = {"space_sdk": "gradio"} if self.repo_type == "space" else {}
            self.repo_id = api.create_repo(**where, private=private, exist_ok=True, **sdk).repo_id
            where["repo_id"] = self.repo_id
            info = api.repo_info(**where)
            self.present = {file.rfilename for file in info.siblings or ()}
            self.check_present(private, is_private=bool(info.private))
            card = CommitOperationAdd("README.md", self.files.get("README.md", b""))
            api.preupload_lfs_files(**where, additions=[card])  # a text is not sent: it asks for the right to write
            if revision is not None and not revision.startswith("refs/pr"):
                api.create_branch(**where, branch=revision, exist_ok=True)
                self.present = {file.rfilename for file in api.repo_info(**where, revision=revision).siblings or ()}
            for name, value in self.variables.items():
                api.add_space_variable(self.repo_id, name, value)

    def check_card(self, api: HfApi) -> None:
        """Raises UploadError for a card with metadata that the Hub refuses.

        `RepoCard.validate` would do, but older versions of huggingface-hub ask the public Hub, whatever the endpoint.
        """
        if "README.md" not in self.files:
            return
        content = self.files["README.md"]
        text = content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")
        question = {"repoType": self.repo_type, "content": text}
        response = get_session().post(
            f"{api.endpoint}/api/validate-yaml", json=question, headers={"Accept": "text/plain"}
        )
        try:
            hf_raise_for_status(response)
        except BadRequestError as error:
            what = first_line(response.text)
            raise UploadError(
                f"The Hub refuses the metadata at the beginning of README.md of {self.repo_id}: {what}. "
                "Mend them in the folder; a licence must be one of the Hub's names."
            ) from error

    def check_present(self, private: bool | None, is_private: bool) -> None:
        """Raises UploadError for a repository that these files would spoil, or that would show them to everybody."""
        others = sorted(self.present - {".gitattributes", "README.md"})
        if others and self.marks and not self.present.intersection(self.marks):
            raise UploadError(
                f"{self.repo_id} is a {self.repo_type} that holds something else, such as {others[:3]}: give another "
                "name, or delete that repository on the Hub."
            )
        if private and not is_private:
            raise UploadError(
                f"{self.repo_id} is there and public: make it private in its settings on the Hub first, or publish "
                "without private."
            )

    def send(self, api: HfApi, commit_message: str, revision: str | None = None) -> str:
        """Sends the files to the repository, after [`open`]; everything changes there in one commit, or nothing.

        Large files go first, by their hash, and show with the commit at the end: a stopped upload leaves the
        repository as it was, and the next one finds them there.

        Returns:
            the address of the commit.

        Raises:
            UploadError: the Hub does not take them.
        """
        where = {"repo_id": self.repo_id, "repo_type": self.repo_type, "revision": revision}
        with naming_refusals(self.repo_id, api):
            additions = [CommitOperationAdd(name, content) for name, content in self.files.items()]
            self.check_unchanged(additions)
            for part in parts(additions):
                api.preupload_lfs_files(**where, additions=part)
            deletions = [CommitOperationDelete(name) for name in sorted(self.vanishing(api, revision))]
            operations = additions + deletions
            with warnings.catch_warnings():  # of tables in the repository of a model, which belong there
                warnings.filterwarnings("ignore", message=".*commit a data file")
                return api.create_commit(**where, operations=operations, commit_message=commit_message).commit_url

    def check_unchanged(self, additions: list[CommitOperationAdd]) -> None:
        """Raises UploadError where a file is no longer the one that the manifest, made for this upload, lists."""
        manifest = self.files.get(MANIFEST_NAME)
        listed = json.loads(manifest)["files"] if isinstance(manifest, bytes) else {}
        changed = [
            addition.path_in_repo
            for addition in additions
            if addition.path_in_repo in listed
            and addition.upload_info.sha256.hex() != listed[addition.path_in_repo]["sha256"]
        ]
        if changed:
            raise UploadError(
                f"{changed[:3]} changed while {self.repo_id} was prepared; none of its files were published. Wait for "
                "whatever writes into the folder to end, then start the same command again."
            )

    def vanishing(self, api: HfApi, revision: str | None) -> set[str]:
        """Files of the repository that are not among these and would not fit them."""
        earlier = set(self.leaving)
        if self.whole and MANIFEST_NAME in self.present:
            path = api.hf_hub_download(self.repo_id, MANIFEST_NAME, repo_type=self.repo_type, revision=revision)
            with contextlib.suppress(CorruptedFolderError):  # what somebody else wrote there lists no files of ours
                earlier |= read_manifest(path)["files"].keys()
        return earlier & self.present - self.files.keys()


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Raises UploadError for a file that lies elsewhere, by a link: a folder that somebody else packed may name any
    file of whoever uploads it. The Hub client's cache consists of links, to files that came from the Hub."""
    inside = folder.resolve()
    for name in names:
        target = (folder / name).resolve()
        if not target.is_relative_to(inside) and not CACHED.search(target.as_posix()):
            raise UploadError(
                f"{folder / name} is a link to {target}, outside of {folder}, and was not uploaded. Remove it, or put "
                "a copy of the file in its place if everybody may see it."
            )


def parts(additions: Iterable[CommitOperationAdd]) -> Iterator[list[CommitOperationAdd]]:
    """Lists of files of at most `PART_BYTES` together, or of one that is larger."""
    part, size = [], 0
    for addition in additions:
        if part and size + addition.upload_info.size > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(addition)
        size += addition.upload_info.size
    if part:
        yield part


@contextlib.contextmanager
def naming_refusals(repo_id: str, api: HfApi) -> Iterator[None]:
    """Raises UploadError, with the repository, the cause and what to do, for what the Hub's client raises."""
    try:
        yield
    except (HTTPError, ConnectionError, HFValidationError, LocalTokenNotFoundError) as error:
        raise UploadError(refusal(error, repo_id, api)) from error
    except RuntimeError as error:  # of a file that was on its way
        cause = error.__cause__ if isinstance(error.__cause__, HTTPError | ConnectionError) else error
        raise UploadError(refusal(cause, repo_id, api)) from error


def refusal(error: Exception, repo_id: str, api: HfApi) -> str:
    """What happened and what to do about it, in a sentence or two."""
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is no name of a repository: {error} Give OWNER/NAME, such as org/lmindexer-beauty."
    if isinstance(error, RuntimeError):
        return f"The upload to {repo_id} stopped: {first_line(error)}. {GOES_ON}"
    if not isinstance(error, HfHubHTTPError | LocalTokenNotFoundError):
        return f"The Hub at {api.endpoint} cannot be reached: {first_line(error)}. {GOES_ON}"
    status = 401 if isinstance(error, LocalTokenNotFoundError) else error.response.status_code
    if status == 401:
        found = "does not know your token" if api.token or get_token() else "does not know who you are"
        return (
            f"The Hub {found}: run `hf auth login`, or set HF_TOKEN to a token that may write "
            f"({api.endpoint}/settings/tokens)."
        )
    if status == 403:
        return (
            f"The Hub does not let you write to {repo_id}: it is somebody else's, or your token may not write "
            f"there ({api.endpoint}/settings/tokens). Give a name under your account or an organisation of yours."
        )
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        return (
            "The Hub takes no more requests from you for now: start again "
            f"{f'in {wait} seconds' if wait else 'later'}. {GOES_ON}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repo_id} cannot be written to as what it should become: its name is taken by a repository of another "
            "kind, or it was deleted meanwhile. Give another name."
        )
    kind = f"has trouble of its own ({status})" if status >= 500 else f"refuses {repo_id} ({status})"
    return f"The Hub {kind}: {first_line(error)}. {GOES_ON if status >= 500 else ''}".rstrip()


def first_line(error: Exception | str) -> str:
    """Of a message, without its full stop; the kind of error where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
