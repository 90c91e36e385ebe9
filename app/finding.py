"""Search: a text and filters in, documents and the beam's path out."""

import re
from dataclasses import dataclass

import numpy as np
import torch
from beam_path import BeamPosition, beam_path
from loaded_model import LoadedModel
from markup import bar, id_chips, label, note, percent, text

NUM_BEAMS = 20
SHOWN_CHARACTERS = 280


@dataclass(frozen=True)
class Found:
    """One document: its log-probability (with vectors of documents, a score), and the codes of its ID."""

    document: object
    score: float
    codes: tuple[int, ...]


def codes_from(typed: str) -> tuple[int, ...]:
    """Codes as people type them: `<12><407>`, `12 407` or `12, 407`.

    Raises:
        ValueError: something else.
    """
    if not re.fullmatch(r"[\s\d,<>]*", typed, re.ASCII) or re.search(r"\d{10}", typed):  # none is that large
        raise ValueError(f"Found {typed!r}: an ID prefix is codes, such as <12><40> or 12 40.")
    return tuple(int(code) for code in re.findall(r"\d+", typed))


def allowed_rows(loaded: LoadedModel, labels: list[str], prefix: tuple[int, ...]) -> np.ndarray | None:
    """Mask `(documents,)` of those with one of the labels and with the prefix; `None` when all are allowed.

    Raises:
        ValueError: a label or prefix that no document has.
    """
    if not labels and not prefix:
        return None
    unknown = [category for category in labels if category not in loaded.labels]
    if unknown:
        raise ValueError(f"No document has the category {unknown[0]!r}.")
    mask = np.full(len(loaded.index), not labels)
    for category in labels:
        mask[loaded.labels[category]] = True
    codes = loaded.index.codes
    if len(prefix) > codes.shape[1] or not (under := (codes[:, : len(prefix)] == prefix).all(axis=1)).any():
        raise ValueError(f"No document's ID begins with {''.join(f'<{code}>' for code in prefix)}.")
    return mask & under


@torch.inference_mode()
def find(
    loaded: LoadedModel, query: str, number: int = 10, labels: list[str] | None = None, prefix: str = ""
) -> tuple[list[Found], list[BeamPosition]]:
    """The best `number` documents, and what the beam held after each position.

    Raises:
        ValueError: an empty query, or filters that fit no document.
    """
    if not query.strip():
        raise ValueError("Type what you are looking for.")
    allowed = allowed_rows(loaded, labels or [], codes_from(prefix))
    if allowed is not None and not allowed.any():
        raise ValueError("No document has both this category and this prefix.")
    result = loaded.model.search(
        index=loaded.index, num_beams=max(NUM_BEAMS, number), top_k=number, allowed=allowed, output_beams=True,
        rescoring=loaded.vectors, **loaded.tokens_of(query),
    )  # fmt: skip
    documents = result.documents[0]
    codes = map(tuple, loaded.index.codes_of(documents).tolist())
    scores = result.scores[0].tolist()
    found = [Found(*hit) for hit in zip(documents, scores, codes, strict=False)]
    return found, beam_path(loaded, result.beams, allowed, found[0].codes if found else ())


def found_html(loaded: LoadedModel, found: list[Found]) -> str:
    """Documents as a list of cards."""
    if not found:
        return note("Nothing was found.")
    return f'<ol class="lm-found">{"".join(card(loaded, hit, found[0].score) for hit in found)}</ol>'


def card(loaded: LoadedModel, hit: Found, best: float) -> str:
    """One document: name, category, ID, score and the beginning of its text, the rest of which can be opened."""
    whole = loaded.text_of(hit.document)
    begin = whole[:SHOWN_CHARACTERS]
    if len(whole) > SHOWN_CHARACTERS:
        begin = begin.rsplit(" ", 1)[0]
        rest = f"<details><summary>whole text</summary><p>{text(whole)}</p></details>"
        body = f"<p>{text(begin)} …</p>{rest}"
    else:
        body = f"<p>{text(begin)}</p>" if begin else ""
    if loaded.vectors is None:
        probability = f'<span title="log-probability {hit.score:.3f}">{percent(float(np.exp(hit.score)))}</span>'
        score = bar(float(np.exp(hit.score - best))) + probability
    else:
        score = f"<span>score {hit.score:.3f}</span>"
    return (
        f'<li class="lm-card"><h3>{text(hit.document)}</h3><div class="lm-facts">{id_chips(hit.codes)}'
        f'<span class="lm-score">{score}</span>'
        f"{label(loaded.category_of(hit.document))}</div>{body}</li>"
    )
