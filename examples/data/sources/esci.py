"""ESCI, the shopping queries data set (Reddy et al., 2022): queries, products, and how far they fit."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..corpora import clean_text
from ..rows import CorpusError
from .draws import draw
from .files import parquet_rows, record, text_lines
from .forms import Retrieval

LOCALES = ("us", "es", "jp", "all")
GAINS = {  # exact: the paper's; graded: the data set's 1, .1, .01 and 0 as whole numbers, so that its nDCG is the same
    "exact": {"E": 1},
    "graded": {"E": 100, "S": 10, "C": 1, "I": 0},
}
_EXAMPLES = ("query_id", "query", "product_id", "product_locale", "esci_label", "small_version", "split")
_TEXTS = ("product_description", "product_bullet_point", "product_brand", "product_color")
_PRODUCTS = ("product_id", "product_locale", "product_title", *_TEXTS)


@dataclass
class EsciSettings:
    """Which judgements are read, and what they are worth."""

    locale: str = field(default="us", metadata={"help": "us, es, jp, or all, as the paper's authors read it."})
    gains: str = field(
        default="exact",
        metadata={"help": "exact: E is relevant, as in the paper. graded: E 100, S 10, C 1, I 0, all in the qrels."},
    )
    small_version: bool = field(default=False, metadata={"help": "The data set's task 1, the harder queries, alone."})
    seed: int = field(default=0, metadata={"help": "Of the 1/8 of the training queries that are for validation."})

    def __post_init__(self) -> None:
        for name, known in (("locale", LOCALES), ("gains", tuple(GAINS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}.")


def convert_esci(inputs: dict[str, list[Path]], settings: EsciSettings) -> Retrieval:
    """Product search: all products that the read examples judge, or the items of a file.

    Queries without an exact product in the collection are left out. An eighth of the training queries becomes `dev`:
    7/8, rounded down, stay, as in the paper.

    Args:
        inputs: `examples` and `products` (shopping_queries_dataset_*.parquet); or, in place of `products`, `items`, an
            items.jsonl.gz whose `asin`, or else `id`, is Amazon's: the paper's way, that of its recommendation.
        settings: see there.

    Raises:
        CorpusError: a column is missing, a label unknown, a pair judged in two ways, or nothing left.
    """
    items = _items(inputs["items"][0]) if inputs["items"] else None
    if (items is None) == (not inputs["products"]):
        raise CorpusError("ESCI needs either products or items as the collection, not both.")
    queries, judged = _judgements(inputs["examples"][0], settings, items)
    exact = GAINS[settings.gains]["E"]
    judged = {split: {q: row for q, row in own.items() if exact in row.values()} for split, own in judged.items()}
    names = list(judged["train"])
    if not names or not judged["test"]:
        raise CorpusError(
            f"{len(names)} training and {len(judged['test'])} test queries have an exact product in the collection; "
            "expected some of both: is it the right domain and locale?"
        )
    held_out = draw(names, len(names) - len(names) * 7 // 8, settings.seed)
    splits = {"train": {}, "dev": {}, "test": judged["test"]}
    for name, out in zip(names, held_out, strict=True):
        splits["dev" if out else "train"][name] = judged["train"][name]
    if items is not None:
        documents = items.values()
    else:
        wanted = {product for own in splits.values() for row in own.values() for product in row}
        documents = _products(inputs["products"][0], settings.locale, wanted)
    return Retrieval(documents, queries, splits)


def _judgements(path: Path, settings: EsciSettings, items: dict | None) -> tuple[dict, dict]:
    """Texts of queries, and by split and query the gains of products, as far as they are in the collection."""
    gains = GAINS[settings.gains]
    queries: dict[str, str] = {}
    judged: dict[str, dict[str, dict[str, int]]] = {"train": {}, "test": {}}
    for number, row in parquet_rows(path, *_EXAMPLES):
        where, query = f"{path}, row {number}", str(row["query_id"])
        if row["esci_label"] not in GAINS["graded"] or row["split"] not in judged:
            raise CorpusError(
                f"{where} has label {row['esci_label']!r} and split {row['split']!r}; expected one of E, S, C, I, and "
                "train or test."
            )
        if settings.locale not in ("all", row["product_locale"]) or (settings.small_version > row["small_version"]):
            continue
        if row["esci_label"] not in gains or (items is not None and row["product_id"] not in items):
            continue
        product = row["product_id"] if items is None else items[row["product_id"]]["_id"]
        gain = gains[row["esci_label"]]
        queries[query] = clean_text(row["query"])
        if judged[row["split"]].setdefault(query, {}).setdefault(product, gain) != gain:
            raise CorpusError(f"{where}: query {query} judges product {product} in two ways; expected one.")
    return queries, judged


def _products(path: Path, locale: str, wanted: set[str]) -> Iterator[dict]:
    """Documents; of one that is sold in several locales the first."""
    for _, row in parquet_rows(path, *_PRODUCTS):
        if row["product_id"] in wanted and locale in ("all", row["product_locale"]):
            wanted.remove(row["product_id"])
            text = clean_text([row[name] for name in _TEXTS])
            yield {"_id": row["product_id"], "title": clean_text(row["product_title"]), "text": text}


def _items(path: Path) -> dict[str, dict]:
    """Documents of an items file, by Amazon's id."""
    found = {}
    for number, line in text_lines(path):
        row = record(line, f"{path}, line {number}", ("id", "title"))
        text = clean_text([row.get(name) for name in ("description", "features", "brand")])
        found[str(row.get("asin", row["id"]))] = {"_id": str(row["id"]), "title": row["title"], "text": text}
    return found
