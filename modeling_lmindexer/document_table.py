"""`documents.parquet`: what the documents of a model folder are about, for people to read."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .folder import (
    MANIFEST_NAME,
    atomic_path,
    reading_again,
    reading_content,
    resolve_file,
    update_manifest,
    verify_files,
)
from .index_rules import check_ids
from .parquet import arrow

DOCUMENTS_NAME = "documents.parquet"
WAY_OUT = "Download or write the folder again; without the file, documents are shown by their ids alone."


class DocumentTable:
    """Texts and categories of documents by their ids. No model reads it: a search works as well without.

    ```python
    >>> table = DocumentTable(["a", "b"], ["red shoes", "blue hat"], [["Shop", "Shoes"], ["Shop", "Hats"]])
    >>> table.text_of("b"), table.category_of("a"), table.text_of("added later")
    ('blue hat', ('Shop', 'Shoes'), None)
    >>> table.label_of("a"), table.label_of("a", depth=2)
    ('Shoes', 'Shoes')

    ```

    Attributes:
        document_ids: all different.
        texts: as many; the beginning of each, where the table was made with `max_characters`.
        categories: one path of labels per document, general to specific; all of them empty where none are known.
        shared_levels: how many labels at the beginning of the paths are the same in all that are not empty.

    Raises:
        ValueError: another number of texts or categories than of documents, ids that occur twice or are of several
            kinds, a text that is no string, or a category that is no list of labels.
    """

    def __init__(self, document_ids: Sequence, texts: Sequence[str], categories: Sequence | None = None):
        self.document_ids = check_ids(document_ids)
        self.texts = list(texts)
        paths = [()] * len(self.document_ids) if categories is None else categories
        self.categories = [as_path(path) for path in paths]
        if not len(self.document_ids) == len(self.texts) == len(self.categories):
            raise ValueError(
                f"Expected a text and a category for each of {len(self.document_ids)} documents, got "
                f"{len(self.texts)} texts and {len(self.categories)} categories."
            )
        wrong = [row for row, text in enumerate(self.texts) if not isinstance(text, str)]
        if wrong:
            raise ValueError(
                f"{len(wrong)} of {len(self.texts)} texts are no strings, such as that of "
                f"{self.document_ids[wrong[0]]!r}: {self.texts[wrong[0]]!r:.100}. Give '' for none."
            )
        self.shared_levels = shared_levels(self.categories)
        self._rows = {document: row for row, document in enumerate(self.document_ids)}

    @classmethod
    def of(cls, documents: Iterable[dict], max_characters: int | None = None) -> "DocumentTable":
        """That of documents `{"id": ..., "text": ..., "category": [...]}`, the last as far as there is one.

        Args:
            max_characters: of each text, the rest of which is left out; default: whole texts.
        """
        documents = list(documents)
        table = cls(
            [d["id"] for d in documents], [d["text"] for d in documents], [d.get("category") for d in documents]
        )
        table.texts = [shortened(text, max_characters) for text in table.texts]
        return table

    def __len__(self) -> int:
        return len(self.document_ids)

    def __contains__(self, document) -> bool:
        return document in self._rows

    def text_of(self, document) -> str | None:
        """Text of a document, `None` for one that is not in the table."""
        row = self._rows.get(document)
        return None if row is None else self.texts[row]

    def category_of(self, document) -> tuple[str, ...]:
        """Labels of a document, general to specific; none for one that is not in the table."""
        row = self._rows.get(document)
        return () if row is None else self.categories[row]

    def label_of(self, document, depth: int = 1) -> str | None:
        """The first `depth` labels of a document that not all documents share, as one text; `None` without one."""
        labels = self.category_of(document)
        return " > ".join(labels[self.shared_levels :][:depth]) or None

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `documents.parquet` with the columns `id`, `text` and `category`, atomically.

        The folder's manifest, if it has one, lists it.

        Raises:
            ImportError: there is no pyarrow.
        """
        pyarrow = arrow()
        kind = pyarrow.string() if isinstance(self.document_ids[0], str) else pyarrow.int64()
        columns = {
            "id": pyarrow.array(self.document_ids, kind),
            "text": pyarrow.array(self.texts, pyarrow.string()),
            "category": pyarrow.array(self.categories, pyarrow.list_(pyarrow.string())),
        }
        with atomic_path(Path(folder) / DOCUMENTS_NAME) as temporary:
            pyarrow.parquet.write_table(pyarrow.table(columns), temporary, write_page_checksum=True)
        if (Path(folder) / MANIFEST_NAME).exists():
            update_manifest(folder, [DOCUMENTS_NAME])

    @classmethod
    @reading_again
    def from_pretrained(cls, name_or_path: str | os.PathLike, **hub_kwargs) -> "DocumentTable":
        """Loads the table of a folder or a Hub repository, checked against its manifest.

        Args:
            name_or_path: folder or Hub repository.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            FileNotFoundError: no such folder, repository or file.
            CorruptedFolderError: a table that cannot be read or holds something else.
        """
        path = resolve_file(name_or_path, DOCUMENTS_NAME, **hub_kwargs)
        parquet = arrow().parquet  # outside of what takes every error for a damaged file
        verify_files([path], resolve_file(name_or_path, MANIFEST_NAME, optional=True, **hub_kwargs))
        with reading_content(path, WAY_OUT):
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                columns = file.read(columns=["id", "text", "category"]).to_pydict()
            if set(columns) != {"id", "text", "category"}:
                raise ValueError(f"it has the columns {sorted(columns)}, expected id, text and category")
            return cls(columns["id"], columns["text"], columns["category"])


def shortened(text: str, max_characters: int | None) -> str:
    """The beginning of a text, with an ellipsis where something is left out."""
    if max_characters is None or len(text) <= max_characters:
        return text
    return text[: max(0, max_characters - 1)].rstrip() + "…"


def as_path(category: Iterable[str] | None) -> tuple[str, ...]:
    """A category as a path of labels, none for `None`. Raises ValueError for what is no list of texts."""
    is_path = isinstance(category, Iterable) and not isinstance(category, str)
    path = tuple(category) if is_path else ()
    if not (is_path or category is None) or not all(isinstance(label, str) for label in path):
        raise ValueError(
            f"Found the category {category!r}: expected a list of labels, general to specific, such as "
            "['Shop', 'Shoes']."
        )
    return path


def shared_levels(paths: Sequence[tuple[str, ...]]) -> int:
    """How many labels at the beginning are the same in all paths that are not empty.

    ```python
    >>> shared_levels([("Shop", "Shoes"), (), ("Shop", "Hats", "Summer")])
    1

    ```
    """
    shared: tuple[str, ...] | None = None
    for path in filter(None, paths):
        if shared is None:
            shared = path
        while path[: len(shared)] != shared:
            shared = shared[:-1]
    if shared is None or all(not path or path == shared for path in paths):
        return 0  # everything has the same path, and that is what there is to say
    return len(shared)
