"""Publishes a model folder in one call: model and index, the IDs as a data set, metrics and a page as Spaces."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, RepoCard
from huggingface_hub.utils import validate_repo_id

import metrics
from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.document_table import DOCUMENTS_NAME
from modeling_lmindexer.folder import (
    MANIFEST_NAME,
    CorruptedFolderError,
    finish_update,
    read_manifest,
    verify_files,
)
from modeling_lmindexer.hub import uploaded_files
from modeling_lmindexer.hub_upload import RepositoryFiles, naming_refusals

from .published_cards import FolderCard, Links

MODEL, IDS, METRICS, PAGE = PARTS = ("model", "ids", "metrics", "page")
METRIC_MODULES = ("ranking_quality", "semantic_id_quality")
MODEL_MARKS = (IDS_NAME, "modeling_lmindexer.py", "prefix_tree.safetensors")


@dataclass
class PublishingSettings:
    """What is published, and how.

    Attributes:
        parts: of `model` (the folder), `ids` (the data set), `metrics` (two Spaces) and `page` (a Space).
        ids_repo: name of the data set; default that of the model with `-ids`. Without an owner, the model's.
        page_repo: name of the page; default that of the model with `-page`. The same.
        page_folder: what the page's Space is to hold.
        private: visibility of repositories that are made; `True` refuses ones that are there and public.
        revision: a branch of the model and the data set, made when there is none; not with a page.
        without_texts: leave the documents' texts out: `documents.parquet`, and the examples on the card.
        licence: of the result, as the Hub names it; default the one on the folder's card.
    """

    parts: Iterable[str] = (MODEL, IDS)
    ids_repo: str | None = None
    page_repo: str | None = None
    page_folder: str = "app"
    private: bool | None = None
    revision: str | None = None
    without_texts: bool = False
    licence: str | None = None

    def __post_init__(self):
        self.parts = tuple(self.parts)
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown or not self.parts:
            raise ValueError(f"The parts are {unknown or 'none'}, expected some of {', '.join(PARTS)}.")
        if self.revision and PAGE in self.parts:
            raise ValueError(
                f"The revision is {self.revision}, and a page shows the main branch of its model: publish the page "
                "without a revision, or the other parts alone."
            )


def publish(
    folder: str | os.PathLike, repo_id: str, settings: PublishingSettings | None = None, *, token: str | None = None,
    say: Callable[[str], None] = print,
) -> list[str]:  # fmt: skip
    """Publishes a model folder and what belongs to it.

    Every repository is opened before anything is sent to one of them, and changes in a single commit, after its large
    files: none is ever seen half. Stopped, the same call goes on, and sends nothing again that has arrived.

    Args:
        folder: that `run_indexing.py`, `run_two_stage.py`, `index_documents.py` or `run_retrieval.py` wrote.
        repo_id: owner and name; without an owner, that of the token.
        settings: see [`PublishingSettings`].
        token: access token; default the one of `HF_TOKEN` or `hf auth login`.
        say: is told what goes where.

    Returns:
        addresses of the commits, in the order in which they were made.

    Raises:
        FileNotFoundError: no such folder, or no index in it.
        CorruptedFolderError: a file is not the one that the folder's manifest lists.
        UploadError: the Hub does not take it, or cannot be reached; says what to do.
    """
    api, settings = HfApi(token=token), settings or PublishingSettings()
    if "/" not in repo_id:
        with naming_refusals(repo_id, api):
            repo_id = f"{api.whoami()['name']}/{repo_id}"
    contents = publication(folder, repo_id, settings)
    report(contents, say)
    for content in contents:
        content.open(api, settings.private, branch(content, settings))
    addresses = []
    for content in contents:
        addresses.append(content.send(api, f"Publish {content.repo_type} with lmindexer", branch(content, settings)))
        say(f"Published: {addresses[-1]}")
    return addresses


def rehearse(
    folder: str | os.PathLike, repo_id: str, settings: PublishingSettings | None = None, *,
    output_dir: str | os.PathLike, say: Callable[[str], None] = print,
) -> list[Path]:  # fmt: skip
    """Writes what [`publish`] would send, byte by byte, without a network.

    Args:
        folder, repo_id, settings, say: as for [`publish`]; the name needs its owner.
        output_dir: gets one folder per repository, such as `models/org/name`; must be empty or not there.

    Returns:
        these folders.

    Raises:
        FileExistsError: something is in `output_dir`.
        ValueError: a name without an owner, or an `output_dir` in the folder.
    """
    output_dir = Path(output_dir)
    if "/" not in repo_id:
        raise ValueError(f"{repo_id} names no owner, and a dry run asks nobody who you are: give OWNER/{repo_id}.")
    if output_dir.exists() and any(output_dir.iterdir()):
        raise FileExistsError(f"{output_dir} is not empty: give a new folder, or remove what an earlier run left.")
    if output_dir.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"{output_dir} is in {folder}, and would be published with it: give a folder elsewhere.")
    contents = publication(folder, repo_id, settings or PublishingSettings())
    report(contents, say, with_names=True)
    folders = [output_dir / f"{content.repo_type}s" / content.repo_id for content in contents]
    for content, target in zip(contents, folders, strict=True):
        content.write(target)
    return folders


def settings_of(arguments) -> PublishingSettings:
    """What the arguments of a training say of `--push_to_hub`."""
    return PublishingSettings(private=arguments.hub_private_repo, revision=arguments.hub_revision)


def publication(folder: str | os.PathLike, repo_id: str, settings: PublishingSettings) -> list[RepositoryFiles]:
    """The repositories, in the order in which they are sent: what others point to first.

    Raises: as [`publish`], but for the network.
    """
    folder = Path(folder)
    links = links_of(repo_id, settings)
    files = checked_files(folder)
    if settings.without_texts:  # wherever they are: the folder may hold another one
        files = {name: file for name, file in files.items() if Path(name).name != DOCUMENTS_NAME}
    cards = FolderCard.of(
        folder, has_texts=DOCUMENTS_NAME in files, without_texts=settings.without_texts, licence=settings.licence
    )
    contents = []
    if IDS in settings.parts:
        contents.append(ids_content(links, cards, files))
    if MODEL in settings.parts:
        contents.append(model_content(folder, links, cards, files))
    if METRICS in settings.parts:
        contents += [metric_content(repo_id.partition("/")[0], name) for name in METRIC_MODULES]
    if PAGE in settings.parts:
        contents.append(page_content(Path(settings.page_folder), links))
    return contents


def links_of(repo_id: str, settings: PublishingSettings) -> Links:
    """The names of the repositories, each with its owner.

    Raises:
        UploadError: one that the Hub does not admit; names also become folders, which must not lie elsewhere.
    """
    owner = repo_id.partition("/")[0]

    def named(given: str | None, ending: str) -> str:
        name = given or f"{repo_id}{ending}"
        return name if "/" in name else f"{owner}/{name}"

    ids, page = named(settings.ids_repo, "-ids"), named(settings.page_repo, "-page")
    for name in (repo_id, ids, page):
        with naming_refusals(name, HfApi()):
            validate_repo_id(name)
    return Links(repo_id, ids=ids if IDS in settings.parts else None, page=page if PAGE in settings.parts else None)


def checked_files(folder: Path) -> dict[str, Path | bytes]:
    """What of a folder is published, compared with its manifest; a card may have been edited since.

    Raises: as [`publish`].
    """
    finish_update(folder)
    if not (folder / IDS_NAME).is_file():
        raise FileNotFoundError(f"{folder} holds no {IDS_NAME}: give a folder that run_indexing.py wrote.")
    files = uploaded_files(folder)
    if MANIFEST_NAME in files:
        listed = read_manifest(folder / MANIFEST_NAME)["files"]
        missing = sorted(listed.keys() - files.keys())
        if missing:
            raise CorruptedFolderError(
                f"{folder} lacks {missing[:3]}, which its manifest lists: write the folder again, or take them out of "
                f"the manifest with modeling_lmindexer.folder.update_manifest({str(folder)!r}, [])."
            )
        verify_files([folder / name for name in listed if name != "README.md"], folder / MANIFEST_NAME)
    return files


def model_content(folder: Path, links: Links, cards: FolderCard, files: dict) -> RepositoryFiles:
    """The model folder, with the card and the manifest that it has on the Hub."""
    files = files | {"README.md": cards.model_card(links).encode()}
    if MANIFEST_NAME in files:
        manifest = read_manifest(folder / MANIFEST_NAME)
        listed = {name: entry for name, entry in manifest["files"].items() if name in files}
        if "README.md" in listed:
            card = files["README.md"]
            listed["README.md"] = {"size": len(card), "sha256": hashlib.sha256(card).hexdigest()}
        files[MANIFEST_NAME] = (json.dumps(manifest | {"files": listed}, indent=2) + "\n").encode()
    return RepositoryFiles(
        links.model, files, marks=MODEL_MARKS, leaving=(DOCUMENTS_NAME,), whole=MANIFEST_NAME in files
    )


def ids_content(links: Links, cards: FolderCard, files: dict) -> RepositoryFiles:
    """The IDs, and the texts as far as they are published, as a data set."""
    tables = {name: files[name] for name in (IDS_NAME, DOCUMENTS_NAME) if name in files}
    card = {"README.md": cards.ids_card(links).encode()}
    return RepositoryFiles(links.ids, tables | card, "dataset", marks=(IDS_NAME,), leaving=(DOCUMENTS_NAME,))


def metric_content(owner: str, name: str) -> RepositoryFiles:
    """A metric as a Space that `evaluate.load("owner/name")` finds; that name must be the module's."""
    room = Path(metrics.__file__).parent
    suffixes = (".py", ".json", ".txt")
    files: dict[str, Path | bytes] = {
        path.name: path for path in sorted((room / name).iterdir()) if path.suffix in suffixes
    }
    card = (room / name / "README.md").read_text(encoding="utf-8").replace("OWNER/", f"{owner}/")
    files |= {"app.py": room / "app.py", "README.md": card.encode()}
    return RepositoryFiles(f"{owner}/{name}", files, "space", marks=(f"{name}.py",))


def page_content(folder: Path, links: Links) -> RepositoryFiles:
    """The page as a Space that shows the model.

    Raises:
        FileNotFoundError: the folder holds no page.
    """
    missing = [name for name in ("app.py", "requirements.txt", "README.md") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is no folder of a Space, it lacks {missing}: name that of the page.")
    files = uploaded_files(folder)
    card = RepoCard((folder / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=True)
    card.data.models = [links.model]  # by which the Hub links the two
    files["README.md"] = str(card).encode()
    return RepositoryFiles(links.page, files, "space", marks=("app.py",), variables={"LMINDEXER_MODEL": links.model})


def branch(content: RepositoryFiles, settings: PublishingSettings) -> str | None:
    """Where its files go: a Space runs its main branch."""
    return None if content.repo_type == "space" else settings.revision


def report(contents: list[RepositoryFiles], say: Callable[[str], None], with_names: bool = False) -> None:
    """Says what goes where, how large it is, and that texts go along."""
    for content in contents:
        sizes = content.sizes
        say(f"{content.repo_type} {content.repo_id}: {len(sizes)} files, {sum(sizes.values()) / 1e6:,.2f} MB")
        for name, size in sorted(sizes.items()) if with_names else ():
            say(f"  {size:>13,}  {name}")
    with_texts = [content.repo_id for content in contents if DOCUMENTS_NAME in content.files]
    if with_texts:
        places = " and ".join(with_texts)
        say(f"The documents' texts go along, as {DOCUMENTS_NAME} in {places}; without_texts leaves them out.")
