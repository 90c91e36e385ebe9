"""The cards of what is published: the model's under its new name, and that of the IDs as a data set."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet
from huggingface_hub import DatasetCardData, ModelCard, ModelCardData, constants

from modeling_lmindexer.document_ids import IDS_NAME
from modeling_lmindexer.document_table import DOCUMENTS_NAME
from modeling_lmindexer.folder import reading_content
from modeling_lmindexer.index_rules import id_texts
from modeling_lmindexer.index_table import checked_metadata

from .evaluation_results import evaluation_results
from .model_card import LICENCE, TAGS, USE, fill, plain, public_names
from .model_folder import METRICS_NAME

TEXT_BLOCKS = re.compile(r"(?:## Examples\n+|For example\n+)```text\n.*?\n```\n+", re.DOTALL)
# As `Links.section` writes it: that of a card which was published before.
OWN_SECTION = re.compile(r"## On the Hub\n\n(?:- (?:The IDs as a data set|A page to search with): .*\n)+\n?")
CODE_NAME = re.compile(r"^folder = (\".*\")$", re.MULTILINE)

PLAIN_TEMPLATE = (
    """---
{{ card_data }}
---

# {{ name | plain }}

Semantic IDs of {{ documents }} documents{% if has_model %}, and the model that reads and writes them{% endif %}, as in
[Language Models as Semantic Indexers](https://arxiv.org/abs/2310.07815).

{% if has_model %}"""
    + USE
    + """{% else %}## Use

```python
from modeling_lmindexer import PrefixTreeLogitsProcessor, SemanticIndex

folder = {{ name | tojson }}
index = SemanticIndex.from_pretrained(folder)
trie = PrefixTreeLogitsProcessor.from_pretrained(folder)
print(index.semantic_ids[:3])
```
{% endif %}
## Licence

{{ licence | plain }}
"""
)

IDS_TEMPLATE = """---
{{ card_data }}
---

# {{ name | plain }}

Semantic IDs of {{ documents }} documents, those of [{{ model }}]({{ hub }}/{{ model }}): codes from coarse to fine,
as in [Language Models as Semantic Indexers](https://arxiv.org/abs/2310.07815).

## Load

```python
from datasets import load_dataset

ids = load_dataset({{ name | tojson }}, split="train")
print(ids[0])
{%- if has_texts %}
documents = load_dataset({{ name | tojson }}, "documents", split="train")
{%- endif %}
```

`semantic_ids` holds one row per document:

| column | type | content |
|---|---|---|
| `id` | {{ id_type }} | the document |
| `codes` | list of int64 | {{ positions }} codes, each from 0 and below {{ sizes }} |
| `semantic_id` | string | the same as text, such as `{{ example }}` |
{% if counter %}
The last code is not learned: it tells apart the documents that share the others.
{% endif %}
{%- if has_texts %}
`documents` holds `id`, `text` and `category`, a list of labels from general to specific.
{% endif %}
{%- if figures %}
## Figures

{% for figure in figures %}- {{ figure.metric_name or figure.metric_type }}: {{ figure.metric_value }}
{% endfor %}{% endif %}
## Licence

{{ licence | plain }}
"""


@dataclass
class Links:
    """Where the parts of a publication are.

    Attributes:
        model: the repository of the model folder, whether or not it has a model.
        ids: the data set, if it is published.
        page: the Space, if it is published.
    """

    model: str
    ids: str | None = None
    page: str | None = None

    def section(self) -> str:
        """What the model's card says of the others."""
        lines = []
        if self.ids:
            lines.append(f"- The IDs as a data set: [{self.ids}]({constants.ENDPOINT}/datasets/{self.ids})")
        if self.page:
            lines.append(f"- A page to search with: [{self.page}]({constants.ENDPOINT}/spaces/{self.page})")
        return "\n".join(["## On the Hub", "", *lines, "", ""]) if lines else ""


@dataclass
class IndexShape:
    """What a card says of an index without reading all of it.

    Attributes:
        documents: how many.
        id_type: of a document's id.
        position_sizes: as of [`SemanticIndex`].
        has_counter: whether the last position tells documents apart.
        first: codes of the first document.
    """

    documents: int
    id_type: str
    position_sizes: list[int]
    has_counter: bool
    first: list[int]

    @classmethod
    def of(cls, path: Path) -> "IndexShape":
        """That of `semantic_ids.parquet`.

        Raises:
            CorruptedFolderError: a file that cannot be read or holds no IDs.
        """
        with (
            reading_content(path, "Download or write the folder again."),
            pyarrow.parquet.ParquetFile(path) as file,
        ):
            metadata = checked_metadata(file.schema_arrow.metadata or {})
            row = next(file.iter_batches(1, columns=["id", "codes"])).to_pylist()[0]
            kind = "string" if isinstance(row["id"], str) else "int64"
            counter = metadata.get("has_disambiguation", True)
            return cls(file.metadata.num_rows, kind, metadata["position_sizes"], counter, row["codes"])


@dataclass
class FolderCard:
    """What the cards are made of.

    Attributes:
        text: the folder's own card, if it has one.
        metrics: content of `metrics.json`.
        shape: of the index.
        has_model: whether there are weights.
        has_texts: whether texts of documents are published.
        without_texts: whether examples of them leave the card, too.
        licence: of the result; default the card's own.
    """

    text: str | None
    metrics: dict
    shape: IndexShape
    has_model: bool = True
    has_texts: bool = False
    without_texts: bool = False
    licence: str | None = None
    data: ModelCardData = field(init=False)

    def __post_init__(self):
        self.data = ModelCard(self.text).data if self.text else ModelCardData(library_name="transformers", tags=TAGS)
        self.data.base_model = public_names(self.data.base_model)
        names = self.data.datasets or "the indexed documents"
        name = names if isinstance(names, str) else names[0]
        self.data.eval_results = self.data.eval_results or evaluation_results(self.metrics, name) or None
        if self.text and self.licence:
            self.text = relicensed(self.text, self.data.license, self.licence)
        self.licence = self.data.license = self.licence or self.data.license

    @classmethod
    def of(cls, folder: Path, **settings) -> "FolderCard":
        """That of a model folder.

        Raises:
            CorruptedFolderError: a card, `metrics.json` or an index that cannot be read.
        """
        card, metrics = folder / "README.md", folder / METRICS_NAME
        values = {"text": None, "metrics": {}, "has_model": (folder / "config.json").exists()}
        if card.exists():
            values["text"] = card.read_text(encoding="utf-8")
        if metrics.exists():
            with reading_content(metrics, "Write the folder again, or remove the file."):
                values["metrics"] = dict(json.loads(metrics.read_text(encoding="utf-8")))
                evaluation_results(values["metrics"], "")  # what is no figure is this file's fault, not the card's
        with reading_content(card, "Its first lines must be YAML between two lines of ---: mend or remove it."):
            return cls(shape=IndexShape.of(folder / IDS_NAME), **values, **settings)

    def model_card(self, links: Links) -> str:
        """The card of the folder under its new name, with evaluation results and the way to the other parts."""
        if self.data.eval_results:
            self.data.model_name = links.model
        if self.text is None:
            text = fill(
                PLAIN_TEMPLATE, self.data, name=links.model, documents=f"{self.shape.documents:,}",
                beams=min(20, self.shape.documents), has_model=self.has_model,
                query_code='query = tokenizer("what to look for", return_tensors="pt")',
                licence=self.licence or LICENCE,
            )  # fmt: skip
        else:
            text = f"---\n{self.data.to_yaml()}\n---\n{renamed(ModelCard(self.text).text, links.model)}"
        if self.without_texts:
            text = TEXT_BLOCKS.sub("", text)
        text = OWN_SECTION.sub("", text)
        before, licence, after = text.rpartition("## Licence\n")
        section = links.section()
        return f"{before}{section}{licence}{after}" if licence else f"{text.rstrip()}\n\n{section}".rstrip() + "\n"

    def ids_card(self, links: Links) -> str:
        """The card of the IDs as a data set."""
        shape, configs = self.shape, [config("semantic_ids", IDS_NAME, default=True)]
        features = [
            {"name": "id", "dtype": shape.id_type}, {"name": "codes", "list": "int64"},
            {"name": "semantic_id", "dtype": "string"},
        ]  # fmt: skip
        if self.has_texts:
            configs.append(config("documents", DOCUMENTS_NAME))
        data = DatasetCardData(
            license=self.licence, tags=TAGS, pretty_name=f"Semantic IDs of {links.model}", configs=configs,
            size_categories=size_category(shape.documents), dataset_info={
                "config_name": "semantic_ids", "features": features,
                "splits": [{"name": "train", "num_examples": shape.documents}],
            },
        )  # fmt: skip
        return fill(
            IDS_TEMPLATE, data, name=links.ids, model=links.model, hub=constants.ENDPOINT, id_type=shape.id_type,
            documents=f"{shape.documents:,}", positions=len(shape.first), counter=shape.has_counter,
            sizes=" and ".join(map(str, shape.position_sizes)), example=id_texts(np.array([shape.first]))[0],
            has_texts=self.has_texts, figures=self.data.eval_results if "codes" in self.metrics else None,
            licence=self.licence or LICENCE,
        )  # fmt: skip


def renamed(text: str, name: str) -> str:
    """A card with the name of a repository in the place of the folder's, in its code and its heading."""
    found = CODE_NAME.search(text)
    try:
        old = json.loads(found[1]) if found else None
    except ValueError:  # somebody's own code
        old = None
    if old is None:
        return text
    text = text.replace(found[0], f"folder = {json.dumps(name)}", 1)
    return re.sub(rf"^# {re.escape(plain(old))}$", lambda _: f"# {name}", text, count=1, flags=re.MULTILINE)


def relicensed(text: str, old: str | list[str] | None, new: str) -> str:
    """A card with another licence in its last section, unless somebody wrote of his own there."""
    own = "|".join(re.escape(plain(words)) for words in (LICENCE, old) if isinstance(words, str))
    section = f"## Licence\n\n{plain(new)}\n"
    return re.sub(rf"^## Licence\n\n(?:{own})(?:\n|\Z)", lambda _: section, text, flags=re.MULTILINE)


def config(name: str, file: str, default: bool = False) -> dict:
    """A table of a data set, as its card names it."""
    found = {"config_name": name, "data_files": [{"split": "train", "path": file}]}
    return found | {"default": True} if default else found


def size_category(rows: int) -> str:
    """The Hub's name for so many rows."""
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B"]
    level = min(max(len(str(rows)) - 3, 0), len(names) - 1)
    return f"{names[level - 1]}<n<{names[level]}" if level else "n<1K"
