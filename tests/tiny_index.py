"""An index of tiny texts with the model that gave the IDs, and a whole model folder of it."""

import torch
from tiny_models import tiny_model, tiny_tokenizer

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.folder import MANIFEST_NAME, update_manifest

# Every document has two words: the model makes IDs of them, some of them shared.
TEXTS = [f"w{2 + i} w{50 + i % 7}" for i in range(40)]


def learned_index(documents=range(30), room=12, **config) -> SemanticIndex:
    """Documents `doc00` and so on with the texts of these numbers, and IDs of 4 x 5 learned codes."""
    model = tiny_model("mpnet", zeros=True, num_disambiguation_codes=room, **config)
    tokenizer = tiny_tokenizer()
    inputs = tokenizer([TEXTS[i] for i in documents], padding=True, return_tensors="pt")
    codes = model.assign(inputs["input_ids"], inputs["attention_mask"]) - torch.tensor([1, 5])
    return SemanticIndex.from_codes(names(documents), codes, [4, 5, room]).attach(model, tokenizer)


def names(documents) -> list[str]:
    """Ids of documents by number."""
    return [f"doc{i:02}" for i in documents]


def documents(numbers, texts=None) -> list[dict]:
    """Documents by number, with their own texts or those of other numbers."""
    texts = numbers if texts is None else texts
    return [{"id": name, "text": TEXTS[i]} for name, i in zip(names(numbers), texts, strict=True)]


def state(index: SemanticIndex) -> tuple:
    """All that a refused call must leave as it was."""
    return (
        list(index.document_ids), index.codes.tolist(), list(index.position_sizes), index.version,
        list(index.changes()), index.tree.sequences().tolist(), index.documents_of(index.sequences),
        index.codebook_fingerprint,
    )  # fmt: skip


def write_folder(folder, index: SemanticIndex) -> None:
    """A model folder with a manifest that lists everything."""
    index.model.config.codebook_fingerprint = index.codebook_fingerprint = index.model.codebooks.fingerprint()
    for part in (index.model, index.tokenizer, index):
        part.save_pretrained(folder)
    update_manifest(folder, [path.name for path in folder.iterdir() if path.name != MANIFEST_NAME])
