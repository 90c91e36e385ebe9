"""Small files and folders at the paths that the guides' commands name: a shop's 400 products in every form."""

import csv
import gzip
import json
import random
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast, T5Config, T5ForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from data.tokenizer import train_tokenizer

from modeling_lmindexer import SemanticIndex

KINDS = {
    "Kitchen": ["kettle", "teapot", "whisk", "saucepan", "grater"],
    "Tools": ["drill", "hammer", "saw", "spanner", "clamp"],
    "Bathroom": ["soap", "shampoo", "comb", "towel", "mirror"],
    "Lighting": ["lamp", "lantern", "torch", "bulb", "candle"],
}
KINDS_OF = [(category, kind) for category, kinds in KINDS.items() for kind in kinds]
ADJECTIVES = ["cordless", "steel", "wooden", "folding", "heavy", "small", "red", "blue", "quiet", "bright"]
BRANDS = ["Ohara", "Lindqvist", "Moreau", "Tanaka"]
USES = ["for the weekend", "for the workshop", "as a present", "for two people", "made to last", "easy to clean"]
NUMBER = 400
PASSAGES = 1_000_100  # of MS MARCO's stand-in: the guide draws a million of them
CORE = 160  # users, and items, of Amazon's stand-in: eight items each
ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}


def products(first: int = 0, number: int = NUMBER) -> list[dict]:
    """Items with an id, a title, a description, a brand and their categories."""
    rows = []
    for place in range(first, first + number):
        draw = random.Random(place)
        category, kind = KINDS_OF[place % len(KINDS_OF)]
        first_word, second_word = draw.sample(ADJECTIVES, 2)
        uses = ". ".join(f"{use} and {draw.choice(ADJECTIVES)}" for use in draw.sample(USES, 2))
        rows.append({
            "id": f"p{place}", "title": f"{first_word.title()} {second_word} {kind}",
            "description": f"A {kind} {uses}.", "brand": draw.choice(BRANDS), "categories": [category, kind],
        })  # fmt: skip
    return rows


def histories() -> list[str]:
    """Lines of a user and five to eight items, mostly of one category."""
    lines = []
    for user in range(60):
        draw = random.Random(user)
        items = draw.sample(range(user % 4 * 5, NUMBER, 20), 4) + draw.sample(range(1, NUMBER, 2), draw.randint(1, 4))
        lines.append(" ".join([f"u{user}", *(f"p{item}" for item in dict.fromkeys(items))]))
    return lines


def judged() -> list[dict]:
    """A query for every fourth product, of words of its title."""
    titles = {row["id"]: row["title"].lower() for row in products()}
    return [{"query": f"{titles[f'p{place}']} {place}", "document_id": f"p{place}"} for place in range(0, NUMBER, 4)]


def write_text(path: Path, text: str) -> None:
    """Also as .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())


def write_table(path: Path, rows: list[dict]) -> None:
    """.jsonl, .csv or .parquet, also as .gz."""
    if path.suffix == ".parquet":
        import pandas

        path.parent.mkdir(parents=True, exist_ok=True)
        pandas.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_beir(folder: Path) -> None:
    """The products as documents."""
    texts = [{"_id": row["id"], "title": row["title"], "text": row["description"]} for row in products()]
    write_table(folder / "corpus.jsonl", texts)
    write_table(folder / "queries.jsonl", [{"_id": f"q{i}", "text": r["query"]} for i, r in enumerate(judged())])
    for split, places in (("train", range(80)), ("test", range(80, 100))):
        lines = [f"q{i}\t{judged()[i]['document_id']}\t1\n" for i in places]
        write_text(folder / "qrels" / f"{split}.tsv", "query-id\tcorpus-id\tscore\n" + "".join(lines))


def write_encoder(folder: Path) -> None:
    """A random BERT."""
    tokenizer = train_tokenizer([f"{row['title']} {row['description']}" for row in products()], 600, 64)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=96, **ENCODER)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_query_model(folder: Path) -> None:
    """A random T5."""
    tokenizer = train_tokenizer([row["title"] for row in products()], 600, 64)
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **T5)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_bert_tokenizer(folder: Path) -> None:
    """A tokenizer of letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    write_text(folder / "vocab.txt", "\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def write_reviews(path: Path) -> None:
    """Amazon's of 2014."""
    rows = [
        {"reviewerID": f"u{user}", "asin": f"p{(user + 13 * day) % CORE}", "overall": 5.0, "unixReviewTime": day}
        for user in range(CORE) for day in range(8)
    ]  # fmt: skip
    write_table(path, rows)


def write_metadata(path: Path) -> None:
    """Amazon's of 2014: literals of Python."""
    rows = [{"asin": r.pop("id"), "categories": [r.pop("categories")]} | r for r in products()]
    write_text(path, "".join(f"{row!r}\n" for row in rows))


def write_esci(path: Path) -> None:
    """Judgements of the shopping queries data set."""
    rows = [
        {"example_id": i, "query": row["query"], "query_id": i, "product_id": row["document_id"],
         "product_locale": "us", "esci_label": "E", "small_version": 1, "split": "test" if i % 5 == 0 else "train"}
        for i, row in enumerate(judged())
    ]  # fmt: skip
    write_table(path, rows)


def write_questions(path: Path, first: int, number: int, first_id: int = 0) -> None:
    """Natural Questions."""
    rows = [
        {"question_text": f"which {row['title'].lower()} is {row['id']}", "example_id": first_id + i,
         "document_text": f"<H1> {row['title']} {row['id']} </H1> <P> {row['description']} </P> <Ul> a </Ul> end"}
        for i, row in enumerate(products(first, number))
    ]  # fmt: skip
    write_table(path, rows)


def write_lines(path: Path, *rows: str) -> None:
    """A text file."""
    write_text(path, "\n".join(rows) + "\n")


def write_msmarco_qrels(path: Path, first: int, number: int) -> None:
    """Query, 0, passage, gain."""
    write_lines(path, *(f"{place}\t0\t{place}\t1" for place in range(first, first + number)))


def write_msmarco_queries(path: Path, first: int, number: int) -> None:
    """Query's id and text."""
    write_lines(path, *(f"{first + i}\t{row['title']}" for i, row in enumerate(products(first, number))))


def write_passages(path: Path) -> None:
    """Passage's id and text."""
    write_lines(path, *(f"{row['id'][1:]}\t{row['title']}" for row in products(0, PASSAGES)))


def write_shards(folder: Path) -> None:
    """Four parts of the products."""
    for part in range(4):
        write_table(folder / f"part{part}.parquet", products(100 * part, 100))


def write_judgements(path: Path) -> None:
    """Queries with their products."""
    write_table(path, judged())


def copy_trained(folder: Path) -> None:
    """An indexer of the products."""
    shutil.copytree(TRAINED, folder)


def write_other_shop(folder: Path) -> None:
    """The same model's index of other products, three of which the first shop has, too."""
    copy_trained(folder)
    index = SemanticIndex.from_pretrained(folder)
    index.remove(index.document_ids[3:])
    index.add([{"id": r["id"], "text": f"{r['title']}\n{r['description']}"} for r in products(NUMBER, 20)])
    index.save_pretrained(folder)


def table_of(first: int = 0, number: int = NUMBER) -> Callable[[Path], None]:
    """Writes a table of products."""
    return lambda path: write_table(path, products(first, number))


DIGITS = str.maketrans("", "", "up")  # P5's ids have no letters
# Where the indexer is that stands for those of the guides; tests/long/code_blocks.py trains it.
TRAINED = Path("trained")
STAND_INS: dict[str, Callable[[Path], None]] = {
    "items.jsonl.gz": table_of(), "items.jsonl": table_of(), "items.csv": table_of(), "products.csv": table_of(),
    "changed.csv": table_of(5, 4), "new.jsonl": table_of(NUMBER, 5), "many.jsonl": table_of(500, 150),
    "gone.txt": lambda path: write_lines(path, "p1", "p2"), "shards": write_shards,
    "sequences.txt.gz": lambda path: write_lines(path, *histories()),
    "histories.txt": lambda path: write_lines(path, *histories()),
    "judgements.csv": write_judgements, "squad": write_beir, "folder": write_beir, "shop": write_beir,
    "outputs/items": copy_trained, "outputs/passages": copy_trained, "outputs/python_docs": copy_trained,
    "outputs/other_shop": write_other_shop, "outputs/pages": copy_trained, "outputs/products": copy_trained,
    "sentence-transformers/all-MiniLM-L6-v2": write_encoder, "doc2query/msmarco-t5-base-v1": write_query_model,
    "google-bert/bert-base-uncased": write_bert_tokenizer,
    "reviews_Beauty_5.json.gz": write_reviews, "meta_Beauty.json.gz": write_metadata,
    "sequential_data.txt": lambda path: write_lines(path, *(line.translate(DIGITS) for line in histories())),
    "datamaps.json": lambda path: write_text(path, json.dumps({"item2id": {f"p{i}": i for i in range(NUMBER)}})),
    "meta_all.jsonl": write_metadata,
    "theirs/SOURCE.json": lambda path: _copied(path, path.parents[1] / "outputs/beauty/SOURCE.json"),
    "shopping_queries_dataset_examples.parquet": write_esci,
    "v1.0-simplified_simplified-nq-train.jsonl.gz": partial(write_questions, first=0, number=300),
    "v1.0-simplified_nq-dev-all.jsonl.gz": partial(write_questions, first=290, number=30, first_id=1000),
    "collection.tsv": write_passages,
    "queries.train.tsv": partial(write_msmarco_queries, first=0, number=80),
    "qrels.train.tsv": partial(write_msmarco_qrels, first=0, number=80),
    "queries.dev.small.tsv": partial(write_msmarco_queries, first=80, number=20),
    "qrels.dev.small.tsv": partial(write_msmarco_qrels, first=80, number=20),
    "msmarco-test2019-queries.tsv": partial(write_msmarco_queries, first=100, number=5),
    "2019qrels-pass.txt": partial(write_msmarco_qrels, first=100, number=5),
    "msmarco-test2020-queries.tsv": partial(write_msmarco_queries, first=105, number=5),
    "2020qrels-pass.txt": partial(write_msmarco_qrels, first=105, number=5),
}  # fmt: skip


def _copied(path: Path, source: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)


def needed(text: str, folder: Path) -> list[str]:
    """The stand-ins that a block names, that are not there yet, and that it does not make itself.

    Args:
        text: of the block.
        folder: where it runs.
    """
    words = text.replace("=", " ").replace("'", " ").replace('"', " ").split()
    made = {word.rstrip("/") for before, word in zip(words, words[1:], strict=False) if before == "--output_dir"}
    if "examples/run_indexing.py" in words and "--output_dir" not in words:
        made.add("outputs/python_docs")  # its default
    found = []
    for name in STAND_INS:
        named = any(word == name or word.startswith(f"{name}/") for word in words)
        is_made = any(name == output or name.startswith(f"{output}/") for output in made)
        if named and not is_made and not (folder / name).exists():
            found.append(name)
    return found
