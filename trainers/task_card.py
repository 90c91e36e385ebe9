"""The card of a model that was taught a task: how to ask it, how well it answers, beside what its IDs are."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from .evaluation_results import task_results
from .model_card import LICENCE, TAGS, USE, fill, in_code_block, public_names

TEMPLATE = (
    """---
{{ card_data }}
---

# {{ name | plain }}

A language model that writes the semantic ID of the document that {{ asks }}, out of {{ documents }}, restricted to the
IDs that exist: {{ task }} as in [Language Models as Semantic Indexers](https://arxiv.org/abs/2310.07815).

"""
    + USE
    + """
## Queries

{{ reading }}

For example

```text
{{ example }}
```

## Data

{{ documents }} documents, {{ pairs }} training pairs. IDs have {{ sizes }} codes.

## Figures

Constrained beam search over all documents, {{ beams }} beams
{%- if rescoring %}, whose documents are ordered by `log p + {{ rescoring }} * cosine`: as by
`model.search(..., rescoring=DocumentVectors.from_pretrained(folder, index))`, not by the lines above{% endif %}.

{{ table }}

`metrics.json` has these figures and those of every evaluation on the validation queries, `run.<split>.trec` what was
found.

## Licence

{{ licence | plain }}
"""
)

TASKS = {
    "recommendation": "a user takes next",
    "search": "a shopper's query asks for",
    "retrieval": "a question or query asks for",
}


@dataclass
class TaskCard:
    """What the card says.

    Attributes:
        name: of the folder or repository.
        task: `recommendation`, `search` or `retrieval`.
        documents, pairs: their numbers.
        sizes: of the positions.
        reading: how a query becomes a text, in words.
        query_code: Python that makes `query`, the tokenizer's output, from `tokenizer` and `index`.
        example: a query of the test and what was found for it.
        table: figures, in Markdown.
        figures: by split, figures by measure.
        num_beams: of the search.
        rescoring_weight: of the cosine by which the figures' beams were ordered again; 0: none.
        dataset: what the figures are about.
        base_model, licence: as far as they are known.
    """

    name: str
    task: str
    documents: int
    pairs: int
    sizes: list[int]
    reading: str
    query_code: str
    example: str
    table: str
    figures: dict[str, dict[str, float]]
    num_beams: int
    dataset: str
    rescoring_weight: float = 0.0
    base_model: str | None = None
    licence: str | None = None


def write_task_card(content: TaskCard, path: Path) -> None:
    """Writes the card as Markdown; its metadata block has the figures as the Hub's evaluation results."""
    data = ModelCardData(
        library_name="transformers", tags=[*TAGS, content.task], base_model=public_names(content.base_model),
        license=content.licence, model_name=content.name,
        eval_results=task_results(content.task, content.figures, content.dataset),
    )  # fmt: skip
    card = fill(
        TEMPLATE, data, name=content.name, asks=TASKS[content.task], task=content.task,
        documents=f"{content.documents:,}", pairs=f"{content.pairs:,}", sizes=" x ".join(map(str, content.sizes)),
        reading=content.reading, query_code=content.query_code, example=in_code_block(content.example),
        table=content.table, beams=min(content.num_beams, content.documents),
        rescoring=content.rescoring_weight, licence=content.licence or LICENCE,
    )  # fmt: skip
    path.write_text(card, encoding="utf-8")
