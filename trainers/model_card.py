"""The model card: what the folder holds, how to use it, what its IDs are worth."""

import html
import re
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

USE = """## Use

```python
import modeling_lmindexer  # pip install lmindexer; registers the model
from modeling_lmindexer import PrefixTreeLogitsProcessor, SemanticIndex
from transformers import AutoModel, AutoTokenizer

folder = {{ name | tojson }}
model = AutoModel.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
index = SemanticIndex.from_pretrained(folder)
trie = PrefixTreeLogitsProcessor.from_pretrained(folder)

{{ query_code }}
ids = model.generate(
    input_ids=query["input_ids"], attention_mask=query["attention_mask"],
    num_beams={{ beams }}, num_return_sequences={{ beams }}, logits_processor=trie,
)
print(index.documents_of(ids))
```

Without the package: `AutoModel.from_pretrained(folder, trust_remote_code=True)`, then `model.load_index(folder)` and
`model.load_prefix_tree(folder)`.

In one call, by `from transformers import pipeline`: `pipeline("semantic-retrieval", model=folder)(text)` finds
documents, `pipeline("semantic-id", model=folder)(text)` gives the ID and what is under its prefixes; without the
package, both take `trust_remote_code=True`.
"""

TEMPLATE = (
    """---
{{ card_data }}
---

# {{ name | plain }}

Semantic IDs of {{ documents }} documents, learned without labels by
[Language Models as Semantic Indexers](https://arxiv.org/abs/2310.07815): a language model reads a text and writes the
ID of a document, from coarse to fine, restricted to the IDs that exist.

"""
    + USE
    + """
## Data

{{ data | plain }} ({{ documents }} documents). IDs have {{ positions }} learned positions with {{ sizes }} codes
{%- if counter %} and a
last one that tells apart the documents that share them{% else %}; documents
that shared them got other codes at the least cost{% endif %}.

## Figures

AMI: adjusted mutual information of codes and categories. Perplexity: `exp(entropy)` of the codes. Difference ratio:
share of the pairs with one prefix that get different codes.

{{ positions_table }}

{{ queries }}

{{ stages_table }}

{% for figure in figures %}![{{ figure }}]({{ figure }})

{% endfor %}
## Examples

```text
{{ examples }}
```

## Licence

{{ licence | plain }}
"""
)


REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
TAGS = ["lmindexer", "semantic-ids", "generative-retrieval"]
LICENCE = (
    "The code is under Apache-2.0. The weights and IDs derive from the data above and from the backbone: their "
    "licences apply; name yours with --licence."
)


@dataclass
class CardContent:
    """What a card says; every text is plain, tables are Markdown."""

    name: str
    data: str
    documents: int
    codebook_sizes: list[int]
    positions_table: str
    stages_table: str
    queries: str
    examples: str
    counter: bool = True  # whether a last position tells documents apart
    base_model: str | None = None
    licence: str | None = None
    datasets: list[str] = field(default_factory=list)
    results: list[EvalResult] = field(default_factory=list)


def write_card(content: CardContent, figures: list[str], path: Path) -> None:
    """Writes the card as Markdown with the metadata block that the Hub reads.

    Args:
        content: what it says.
        figures: names of picture files beside it.
        path: of the card.
    """
    data = ModelCardData(
        library_name="transformers",
        tags=TAGS,
        base_model=public_names(content.base_model),
        license=content.licence,
        datasets=content.datasets or None,
        model_name=content.name,
        eval_results=content.results or None,
    )
    card = fill(
        TEMPLATE,
        data,
        name=content.name,
        data=content.data,
        documents=f"{content.documents:,}",
        beams=min(20, content.documents),
        query_code='query = tokenizer("what to look for", return_tensors="pt")',
        positions=len(content.codebook_sizes),
        counter=content.counter,
        sizes=" and ".join(map(str, content.codebook_sizes)),
        positions_table=content.positions_table,
        stages_table=content.stages_table,
        queries=content.queries,
        figures=figures,
        examples=in_code_block(content.examples),
        licence=content.licence or LICENCE,
    )
    path.write_text(card, encoding="utf-8")


def fill(template: str, metadata: ModelCardData, **values) -> str:
    """A card from its template; `plain` is a filter in it."""
    environment = jinja2.Environment(autoescape=False, keep_trailing_newline=True)
    environment.filters["plain"] = plain
    return environment.from_string(template).render(card_data=metadata.to_yaml(), **values)


def public_names(models: str | list[str] | None) -> list[str] | None:
    """Those that can be names of repositories: a run that began from a folder names that folder.

    A relative path is known to be one only where the run was, so this is asked when a card is written.
    """
    named = [models] if isinstance(models, str) else models or []
    return [name for name in named if REPOSITORY.fullmatch(name) and not Path(name).exists()] or None


def plain(text: str) -> str:
    """A user's text for a line of Markdown: no line break, no HTML, no code."""
    return html.escape(" ".join(text.split()), quote=False).replace("`", "&#96;")


def in_code_block(text: str) -> str:
    """Texts of documents, which must not end the code block that they stand in."""
    return text.replace("```", "'''")
