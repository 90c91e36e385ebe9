"""Indexes a corpus of any size in parts, by one process or several, and goes on after any stop."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modeling_lmindexer import LMIndexerConfig
from modeling_lmindexer.folder import MANIFEST_NAME

from .bulk_assignment import BulkAssigner, UnusableTextError, ahead
from .bulk_index import BulkIndex, PartRows, UnusableShardsError, build_bulk_index, load_with_room
from .corpus_parts import (
    PARTS_NAME,
    Part,
    PartsFolder,
    Records,
    Source,
    SourceState,
    is_complete,
    write_parts_manifest,
)
from .folder_lock import FolderInUseError, FolderLock
from .model_folder import METRICS_NAME, whole_folder
from .progress import progress_bar
from .run_state import ExistingRunError, keep_changed_index, read_object
from .stop_signals import leave_on_signal

_WORK = ".work"


@dataclass
class ShardShare:
    """Which process this is, of how many that index one corpus together."""

    shard_index: int = field(default=0, metadata={"help": "Number of this process, from 0; torchrun sets it."})
    num_shards: int = field(default=1, metadata={"help": "Processes that share the work; torchrun sets it."})

    def __post_init__(self):
        if not 0 <= self.shard_index < self.num_shards:
            raise ValueError(
                f"shard_index is {self.shard_index} and num_shards {self.num_shards}: give an index from 0 to "
                f"{self.num_shards - 1}."
            )


@dataclass
class Leftovers:
    """What becomes of the parts of an earlier run; by default they are taken for this run's, or refused."""

    start_over: bool = field(default=False, metadata={"help": "Delete the parts of another run, and begin."})
    redo_changed: bool = field(
        default=False, metadata={"help": "Index files again that changed, and leave out those no longer named."}
    )

    def clear(
        self, folder: PartsFolder, sources: Sequence[Source], share: ShardShare, say: Callable[[str], None]
    ) -> None:
        """Deletes what is to be deleted.

        Raises:
            FolderInUseError: other processes are at work.
            ValueError: this is one of several, which would delete what the others write.
        """
        if not self.start_over and not self.redo_changed:
            return
        if share.num_shards > 1:
            raise ValueError(
                f"--start_over and --redo_changed are for one process alone. Delete {folder.root} to begin again; or "
                "run one process with --redo_changed, which may be stopped when it begins to read."
            )
        with contextlib.ExitStack() as stack:
            for path in folder.root.glob(".*.lock"):  # this process's own may be taken again
                stack.enter_context(FolderLock(folder.root, path.name[1:].removesuffix(".lock")))
            if self.start_over:
                folder.forget_all()
            for path in folder.forget_changed(sources):
                say(f"Parts of {path} deleted: it has changed, or is no longer among the input files.")


@contextlib.contextmanager
def claimed(
    folder: PartsFolder, sources: Sequence[Source], share: ShardShare, leftovers: Leftovers, say: Callable[[str], None]
) -> Iterator[Path]:
    """Holds the place of a process in a folder; gives a folder for what is not whole, empty at the beginning.

    Raises:
        FolderInUseError: another process with the same number is at work; every one has its own `shard_index`.
        ExistingRunError: the parts are those of another run.
    """
    with FolderLock(folder.root, f"shard-{share.shard_index}"):
        leftovers.clear(folder, sources, share, say)
        folder.claim()
        folder.check_sources(sources)
        beside = folder.root / f".writing-{share.shard_index}"
        shutil.rmtree(beside, ignore_errors=True)  # of one that was killed
        beside.mkdir()
        yield beside
        shutil.rmtree(beside, ignore_errors=True)


def assign_parts(
    sources: Sequence[Source], assigner: BulkAssigner, folder: PartsFolder, share: ShardShare, beside: Path
) -> int:
    """Writes the parts of a process that are not there yet; returns the number of their documents."""
    count = 0
    with progress_bar(description="documents", disable=share.shard_index > 0) as bar:
        for source, state, records, tokens in ahead(tokenized(sources, assigner, folder, share)):
            folder.write(source, state, records, assigner.assign(tokens), beside)
            leave_on_signal("between two parts", quiet=share.shard_index > 0)
            count += len(records.ids)
            bar.update(len(records.ids))
    return count


@dataclass
class Unfinished:
    """A file with parts that are to be done.

    Attributes:
        source: the file.
        place: of it among all files.
        done: numbers of the parts that are there.
        known: of the file when they were written.
        count: of all its parts, if it is known.
    """

    source: Source
    place: int
    done: frozenset[int]
    known: SourceState | None
    count: int | None

    def records(self, size: int, share: ShardShare) -> Iterator[tuple[SourceState, Records]]:
        """The parts of `size` documents that are a process's to do, read, with the state of the file.

        A file that has none is not opened: whoever does its parts hashes it, and whoever builds the index compares.

        Raises:
            UnusableShardsError: the file was changed meanwhile.
        """

        def wanted(number: int) -> bool:
            return (self.place + number) % share.num_shards == share.shard_index and number not in self.done

        if self.count is not None and not any(map(wanted, range(self.count))):
            return
        state = SourceState.of(self.source.path, self.known)
        for records in self.source.parts(size, wanted):
            yield state, records
        if SourceState.of(self.source.path, state).sha256 != state.sha256:
            raise UnusableShardsError(
                f"{self.source.path} was changed while it was read: run again with --redo_changed."
            )


def unfinished(sources: Sequence[Source], folder: PartsFolder) -> Iterator[Unfinished]:
    """The files whose parts are not all there; raises what [`PartsFolder.of`] raises."""
    for place, source in enumerate(sources):
        done = folder.of(source)
        if not is_complete(done):
            known = next((part.source for part in done.values()), None)
            last = next((number for number, part in done.items() if part.is_last), None)
            count = source.number_of_parts(folder.size) if last is None else last + 1
            yield Unfinished(source, place, frozenset(done), known, count)


@contextlib.contextmanager
def naming_rows(source: Source, records: Records) -> Iterator[None]:
    """Raises UnusableShardsError, with file and row, for a text that the tokenizer finds nothing in."""
    try:
        yield
    except UnusableTextError as error:
        raise UnusableShardsError(
            f"{source.path}, row {records.first_row + error.row + 1}, has a text that the model's tokenizer "
            f"finds nothing in: {records.texts[error.row][:60]!r}. Leave it out."
        ) from error


def tokenized(
    sources: Sequence[Source], assigner: BulkAssigner, folder: PartsFolder, share: ShardShare
) -> Iterator[tuple[Source, SourceState, Records, list[np.ndarray]]]:
    """The parts of a process that are to be done, read and tokenised.

    Raises:
        UnusableShardsError: a text that the tokenizer finds nothing in.
    """
    for work in unfinished(sources, folder):
        for state, records in work.records(folder.size, share):
            with naming_rows(work.source, records):
                tokens = assigner.tokenize(records.texts)
            yield work.source, state, records, tokens


@dataclass
class BulkResult:
    """What a call did.

    Attributes:
        assigned: documents that this process gave codes.
        seconds: that took.
        index: of the corpus, None where other processes' parts are missing or another one builds it.
        note: what was changed in the model.
        parts: number of all parts.
    """

    assigned: int
    seconds: float
    index: BulkIndex | None = None
    note: str = ""
    parts: int = 0


def finish_index(
    name_or_path: str | Path, sources: Sequence[Source], folder: PartsFolder, memory: int, say: Callable[[str], None]
) -> tuple[BulkIndex, str, int] | None:
    """What concerns all documents, and the model folder; None where parts are missing, or another process does it.

    Raises:
        UnusableShardsError: repeated ids, ids of several kinds, or no documents.
    """
    if not all(is_complete(folder.of(source)) for source in sources):
        return None
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FolderLock(folder.root, "index"))
        except FolderInUseError:
            return None
        parts, digest = write_parts_manifest(folder, sources)
        target, work = folder.root.parent, folder.root / _WORK
        if (done := index_of(target, digest)) is not None:
            shutil.rmtree(work, ignore_errors=True)  # of one that was killed just before its end
            return done, "", len(parts)
        index, note = write_indexed_folder(name_or_path, parts, digest, target, work, memory, say)
        return index, note, len(parts)


def write_indexed_folder(
    name_or_path: str | Path, parts: Sequence[Part], digest: str, target: Path, work: Path, memory: int,
    say: Callable[[str], None],
) -> tuple[BulkIndex, str]:  # fmt: skip
    """Builds the index of parts, and writes it with the model that made them into a new model folder.

    Args:
        name_or_path: of the model.
        parts: of the whole corpus.
        digest: of the parts, by which the folder is known again.
        target: the model folder.
        work: a folder for files, removed at the end; on the same file system.
        memory: bytes that sorting may take.
        say: is told what begins.

    Returns:
        the index, and what was changed in the model for it.
    """
    config = LMIndexerConfig.from_pretrained(name_or_path)
    columns = [f"c{t}" for t in range(config.num_learned_positions)]
    index = build_bulk_index(PartRows(parts, columns), config, memory, work, say)
    model, tokenizer, note = load_with_room(name_or_path, index.largest_group)
    figures = {
        "documents": index.documents, "codebook_sizes": config.codebook_sizes, "parts": digest,
        "distinct_prefixes": index.distinct_prefixes, "largest_group": index.largest_group,
    }  # fmt: skip
    with whole_folder(target, model, tokenizer, index, figures):
        pass
    shutil.rmtree(work)
    return index, note


def index_of(target: Path, digest: str) -> BulkIndex | None:
    """The index that a whole model folder has, if it is that of the parts with this digest."""
    if not (target / MANIFEST_NAME).exists():
        return None
    figures = read_object(target / METRICS_NAME)
    if figures.get("parts") != digest:
        return None
    return BulkIndex(target, figures["documents"], figures["largest_group"], figures["distinct_prefixes"])


def check_target(name_or_path: str | Path, output_dir: Path) -> None:
    """Raises ExistingRunError for a folder that holds a model that was not written here, or an index changed since."""
    same = Path(name_or_path).resolve() == output_dir.resolve()
    if same or (output_dir / MANIFEST_NAME).exists() and not (output_dir / PARTS_NAME).exists():
        raise ExistingRunError(
            f"{output_dir} holds a model folder {'to read from' if same else 'of another kind of run'}, whose index "
            "would be lost: choose another output_dir."
        )
    keep_changed_index(output_dir)


def index_corpus(
    name_or_path: str | Path, sources: Sequence[Source], folder: PartsFolder,
    assigner: BulkAssigner, memory: int, share: ShardShare, leftovers: Leftovers,
    say: Callable[[str], None] = print, assign: Callable[..., int] = assign_parts,
) -> BulkResult:  # fmt: skip
    """Gives all documents their IDs; see `examples/index_documents.py`.

    Args:
        name_or_path: of the model.
        sources: files of the corpus.
        folder: of the parts, inside the new model folder.
        assigner: writes the codes.
        memory: bytes for what concerns all documents.
        share: of this process.
        leftovers: what becomes of an earlier run's parts.
        say: is told what begins.
        assign: writes the parts that are missing, as [`assign_parts`] does; for another engine.

    Raises:
        ExistingRunError: the folder is another run's.
        FolderInUseError: another process works there under the same number.
        UnusableShardsError: documents that no index can be made of.
    """
    with claimed(folder, sources, share, leftovers, say) as beside:
        began = time.perf_counter()
        count = assign(sources, assigner, folder, share, beside)
        result = BulkResult(count, time.perf_counter() - began)
        finished = finish_index(name_or_path, sources, folder, memory, say)
        if finished is not None:
            result.index, result.note, result.parts = finished
    return result
