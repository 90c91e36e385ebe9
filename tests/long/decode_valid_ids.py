"""Decodes IDs by the million under filters and changes, and counts what is not an ID or is found twice.

    python tests/long/decode_valid_ids.py --sequences 1000000

Beam search on random scores, through the logits processor, over trees of both layouts: with all documents, with one
filter, with one per query, while documents come and go, and both at once; then `generate` and `search` of tiny random
models. Every returned sequence is looked up in a dict of the documents. Prints a line per stage; exits with 1 when one
is wrong.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from modeling_lmindexer import (
    LMIndexerConfig,
    LMIndexerForSemanticID,
    PrefixTree,
    PrefixTreeLogitsProcessor,
    SemanticIndex,
)

BEAMS, QUERIES = 20, 32
CODES, POSITIONS = 256, 4
PAD, EOS = 0, 1


@dataclass
class Counts:
    """What came out of a stage.

    Attributes:
        sequences: returned by the search and not flagged by the processor.
        fillers: flagged ones.
        invalid: returned although no allowed document has them.
        duplicates: returned a second time for the same query.
        missed: flagged although they are IDs found for the first time, and IDs that the beams had room for.
    """

    sequences: int = 0
    fillers: int = 0
    invalid: int = 0
    duplicates: int = 0
    missed: int = 0

    @property
    def wrong(self) -> int:
        return self.invalid + self.duplicates + self.missed

    def add(self, other: "Counts") -> None:
        for name in ("sequences", "fillers", "invalid", "duplicates", "missed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        return (
            f"{self.sequences:,} IDs, {self.fillers:,} fillers flagged, {self.invalid} invalid, "
            f"{self.duplicates} duplicate, {self.missed} missed"
        )


class Corpus:
    """Documents with random IDs, some of them shared, in a tree and, independent of it, in a dict."""

    def __init__(self, documents: int, layout: str, seed: int, ragged: bool = False):
        self.random, self.ragged = np.random.default_rng(seed), ragged
        sequences, lengths = self._draw(documents)
        self.tree = PrefixTree.from_sequences(sequences, lengths if ragged else None, layout=layout)
        self.owners: dict[tuple, list[int]] = {}
        self.sequences = []
        self._note(sequences, lengths)
        self.present = np.ones(documents, dtype=bool)

    def _draw(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Skewed codes from 2 on, as k-means gives them, and lengths."""
        codes = (CODES * self.random.random((number, POSITIONS)) ** 2).astype(np.int64)
        lengths = self.random.integers(1, POSITIONS + 1, number) if self.ragged else np.full(number, POSITIONS)
        return 2 + codes + CODES * np.arange(POSITIONS), lengths

    def _note(self, sequences: np.ndarray, lengths: np.ndarray) -> None:
        for sequence, length in zip(sequences.tolist(), lengths, strict=True):
            sequence = tuple(sequence[:length])
            self.owners.setdefault(sequence, []).append(len(self.sequences))
            self.sequences.append(sequence)

    def change(self, number: int) -> None:
        """Adds `number` documents and removes as many."""
        sequences, lengths = self._draw(number)
        # Some IDs come back as those of other documents.
        again = self.random.integers(0, len(self.sequences), number // 10)
        if not self.ragged and len(again):
            sequences[: len(again)] = [self.sequences[document] for document in again]
        self.tree.add(sequences, lengths if self.ragged else None)
        self._note(sequences, lengths)
        self.present = np.concatenate([self.present, np.ones(number, dtype=bool)])
        gone = self.random.choice(self.present.nonzero()[0], number, replace=False)
        self.tree.remove(gone)
        self.present[gone] = False

    def filters(self, kind: str | None) -> np.ndarray | None:
        """A mask of documents, or one per query: from a handful, fewer than beams, to nearly all."""
        if kind is None:
            return None
        shape = (QUERIES, len(self.present)) if kind == "per query" else (1, len(self.present))
        share = 10.0 ** self.random.uniform(-5, 0, (shape[0], 1))
        masks = self.random.random(shape) < share
        return masks if kind == "per query" else masks[0]

    def check(self, found: torch.Tensor, valid: torch.Tensor, allowed: np.ndarray | None, all_found: bool) -> Counts:
        """Compares with the dict what a search returned.

        Args:
            found: `(queries * beams, tokens)`, without the prompt.
            valid: `(queries * beams,)`, what the processor says of them.
            allowed: a mask `(documents,)` or `(queries, documents)`.
            all_found: whether no beam can be lost on the way: then every query returns as many IDs as fit.
        """
        counts, beams = Counts(), len(found) // QUERIES
        masks = self.present if allowed is None else self.present & allowed
        masks = np.broadcast_to(masks, (QUERIES, len(self.present)))
        for query, (rows, flags) in enumerate(zip(found.split(beams), valid.split(beams), strict=True)):
            seen = set()
            for row, flag in zip(map(tuple, rows.tolist()), flags.tolist(), strict=True):
                answer = row[: row.index(EOS)] if EOS in row else row
                real = any(masks[query, document] for document in self.owners.get(answer, ()))
                counts.missed += real and not flag and answer not in seen
                if not flag:
                    counts.fillers += 1
                    continue
                counts.sequences += 1
                counts.invalid += not real
                counts.duplicates += answer in seen
                seen.add(answer)
            if all_found and len(seen) < beams:
                documents = masks[query].nonzero()[0]
                different = len({self.sequences[document] for document in documents})
                counts.missed += min(beams, different) - len(seen)
        return counts


def beam_search(trie: PrefixTreeLogitsProcessor, generator: torch.Generator) -> torch.Tensor:
    """As `generate` does, on random scores: `(queries * beams, 1 + positions)`; IDs of one length."""
    vocabulary = 2 + CODES * POSITIONS
    ids = torch.zeros(QUERIES * BEAMS, 1, dtype=torch.long)
    # Only one beam of a query counts in the first step, because all are the same.
    totals = torch.full((QUERIES, BEAMS), -1e9)
    totals[:, 0] = 0
    first_rows = torch.arange(QUERIES)[:, None] * BEAMS
    for _ in range(POSITIONS):
        scores = trie(ids, torch.rand(len(ids), vocabulary, generator=generator))
        totals, places = (scores + totals.view(-1, 1)).view(QUERIES, -1).topk(BEAMS)
        rows = (first_rows + places // vocabulary).view(-1)
        ids = torch.cat([ids[rows], (places % vocabulary).view(-1, 1)], dim=1)
    return ids


def tiny_models() -> Iterator[tuple[str, torch.nn.Module, dict]]:
    """An encoder-decoder and a decoder with random weights, and texts for them."""
    vocabulary = 2 + CODES * POSITIONS
    special = {"vocab_size": vocabulary, "pad_token_id": PAD, "eos_token_id": EOS}
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    t5 = T5ForConditionalGeneration(T5Config(**special, **sizes, decoder_start_token_id=PAD))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(**special, **sizes, bos_token_id=2))
    for name, model in (("t5", t5), ("llama", llama)):
        # Random weights predict all tokens about alike; scores far apart send every query elsewhere.
        model.lm_head.weight.data.normal_(0, 2)
        yield name, model.eval()


def stages(corpus_of, share: int, generator: torch.Generator) -> Iterator[tuple[str, Counts]]:
    """Decodes `share` IDs or some more in every stage; yields its name and counts."""
    kinds = [
        (layout, kind, changing)
        for layout in ("fast", "compact")
        for kind in (None, "one filter", "per query")
        for changing in (False, True)
    ]
    for number, (layout, kind, changing) in enumerate(kinds):
        corpus, total, steps = corpus_of(layout, number), Counts(), 0
        while total.sequences < share:
            if changing:
                corpus.change(len(corpus.tree) // 500 + 1)
            # A filter stays for a few batches: so does a shop's stock.
            allowed = corpus.filters(kind)
            trie = PrefixTreeLogitsProcessor(corpus.tree)
            trie = trie if allowed is None else trie.filtered(torch.from_numpy(allowed))
            for _ in range(4):
                ids = beam_search(trie, generator)
                total.add(corpus.check(ids[:, 1:], trie.is_valid(ids, BEAMS), allowed, all_found=True))
            steps += 1
        changes = f", {steps:,} times changed" if changing else ""
        yield f"{layout}, {kind or 'all documents'}{changes}", total


@torch.no_grad()
def generate_stages(corpus_of, share: int, generator: torch.Generator) -> Iterator[tuple[str, Counts]]:
    """The same through `generate`, with IDs of one length and of several, beams and samples."""
    models = list(tiny_models())
    for number, ragged in enumerate((False, True)):
        corpus = corpus_of("fast", 100 + number, ragged)
        for name, model in models:
            total, steps = Counts(), 0
            while total.sequences < share // 4:
                corpus.change(len(corpus.tree) // 500 + 1)
                allowed = corpus.filters((None, "one filter", "per query")[steps % 3])
                texts = torch.randint(2, CODES, (QUERIES, 3), generator=generator)
                prompt = 1 if model.config.is_encoder_decoder else texts.shape[1]
                trie = PrefixTreeLogitsProcessor(corpus.tree, prompt, None, EOS if ragged else None, PAD)
                trie = trie if allowed is None else trie.filtered(torch.from_numpy(allowed))
                # A filter may leave a query nothing: sampling goes on by the padding, and every row is flagged.
                sample = {"do_sample": True, "top_k": 0} if steps % 4 == 3 else {"num_beams": BEAMS}
                ids = model.generate(
                    texts,
                    attention_mask=torch.ones_like(texts),
                    num_return_sequences=BEAMS,
                    max_new_tokens=POSITIONS + ragged,
                    logits_processor=trie,
                    **sample,
                )
                valid = trie.is_valid(ids, num_return_sequences=BEAMS)
                all_found = "num_beams" in sample and not ragged
                total.add(corpus.check(ids[:, prompt:], valid, allowed, all_found))
                steps += 1
            yield f"generate of {name}, {'several lengths' if ragged else 'one length'}", total


@torch.no_grad()
def search_stages(documents: int, share: int, generator: torch.Generator) -> Iterator[tuple[str, Counts]]:
    """The same through `model.search` of this package's own model."""
    random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    learned = random.integers(0, 64, (documents, POSITIONS - 1))
    index = SemanticIndex.from_codes(list(range(documents)), learned, [64] * (POSITIONS - 1) + [16])
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = LMIndexerConfig(
        backbone_config=T5Config(vocab_size=CODES, **sizes),
        codebook_sizes=index.position_sizes[:-1],
        num_disambiguation_codes=index.position_sizes[-1],
    )
    model = LMIndexerForSemanticID(config).eval()
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    for kind in (None, "one filter", "per query"):
        total = Counts()
        while total.sequences < share // 3:
            texts = torch.randint(2, CODES, (QUERIES, 3), generator=generator)
            shape = (1, documents) if kind != "per query" else (QUERIES, documents)
            masks = random.random(shape) < 10.0 ** random.uniform(-4, 0, (shape[0], 1))
            allowed = {None: None, "one filter": masks[0], "per query": masks}[kind]
            found = model.search(input_ids=texts, index=index, num_beams=BEAMS, top_k=BEAMS, allowed=allowed).documents
            for query, answer in enumerate(found):
                mask = np.ones(documents, dtype=bool) if kind is None else masks[query % len(masks)]
                total.sequences += len(answer)
                total.invalid += len(answer) - int(mask[answer].sum())
                total.duplicates += len(answer) - len(set(answer))
                total.missed += min(BEAMS, int(mask.sum())) - len(answer)
        yield f"search, {kind or 'all documents'}", total


def decode_valid_ids(sequences: int, documents: int, seed: int, log=print) -> Counts:
    """Decodes about `sequences` IDs of `documents` documents.

    Args:
        sequences: how many IDs to find in all.
        documents: in every tree at its start.
        seed: of documents, filters, changes and scores.
        log: called with a line per stage.
    """
    torch.manual_seed(seed)
    generator, total = torch.Generator().manual_seed(seed), Counts()

    def corpus_of(layout: str, number: int, ragged: bool = False) -> Corpus:
        return Corpus(documents, layout, seed + number, ragged)

    began = time.time()
    share = sequences // 14
    every = chain(
        stages(corpus_of, share, generator),
        generate_stages(corpus_of, share, generator),
        search_stages(documents, share, generator),
    )
    for name, counts in every:
        log(f"{name}: {counts}, {time.time() - began:.0f} s")
        total.add(counts)
        began = time.time()
    return total


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=1_000_000)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.time()
    total = decode_valid_ids(
        arguments.sequences, arguments.documents, arguments.seed, lambda line: print(line, flush=True)
    )
    print(f"in all: {total}, {time.time() - began:.0f} s")
    sys.exit(total.wrong > 0)


if __name__ == "__main__":
    main()
