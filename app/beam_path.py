"""How a search came to its documents: the prefixes that the beam held after each position, and those it gave up."""

from dataclasses import dataclass

import numpy as np
from loaded_model import LoadedModel
from markup import about, bar, count, id_chips, percent, text

from modeling_lmindexer import IDTreeOverview, PrefixOverview

SHOWN_PREFIXES = 8


@dataclass(frozen=True)
class HeldPrefix:
    """A prefix of the beam.

    Attributes:
        codes: so far.
        probability: of these codes, given the query.
        kept: how many prefixes of the next position continue it: 0 if it was pruned there, `None` for a whole ID.
        leads: whether the first document that was found has it.
        overview: what is under it.
    """

    codes: tuple[int, ...]
    probability: float
    kept: int | None
    leads: bool
    overview: PrefixOverview


@dataclass(frozen=True)
class BeamPosition:
    """What the beam held after a position, most likely first, out of `candidates` that exist and are allowed."""

    held: tuple[HeldPrefix, ...]
    candidates: int


def beam_path(
    loaded: LoadedModel, beams: tuple, allowed: np.ndarray | None, best: tuple[int, ...]
) -> list[BeamPosition]:
    """The path of one query.

    Args:
        beams: of [`SearchOutput`], whose first query it is.
        allowed: mask `(documents,)` that the search had.
        best: codes of the first document that was found.
    """
    codes = None if allowed is None else loaded.index.codes[allowed]
    offsets, path, before = loaded.index.offsets, [], None
    held = [[tuple(row) for row in (ids[0].numpy() - offsets[: ids.shape[2]]).tolist()] for ids, _ in beams]
    for position, (prefixes, (_, scores)) in enumerate(zip(held, beams, strict=True)):
        following = held[position + 1] if position + 1 < len(held) else None
        path.append(
            BeamPosition(
                tuple(
                    HeldPrefix(
                        prefix,
                        float(np.exp(score)),
                        None if following is None else sum(longer[: position + 1] == prefix for longer in following),
                        prefix == best[: position + 1],
                        loaded.tree.overview(prefix, num_samples=1),
                    )
                    for prefix, score in zip(prefixes, scores[0].tolist(), strict=True)
                ),
                num_candidates(loaded.tree, codes, position, before),
            )
        )
        before = prefixes
    return path


def num_candidates(
    tree: IDTreeOverview, codes: np.ndarray | None, position: int, held: list[tuple[int, ...]] | None
) -> int:
    """How many prefixes of a position continue one that was `held` before it.

    Args:
        codes: `(documents, positions)` of the documents that were allowed; `None` for all, whose rows the tree knows.
        held: `None` at the first position.
    """
    held = [()] if held is None else held
    if codes is None:
        return sum(tree.num_children(prefix) for prefix in held)
    rows = np.zeros(len(codes), dtype=bool)
    for prefix in held:
        rows |= (codes[:, :position] == prefix).all(axis=1)
    return len(np.unique(codes[rows, : position + 1], axis=0))


def path_html(path: list[BeamPosition]) -> str:
    """The path, position by position."""
    steps = []
    for number, position in enumerate(path, 1):
        held = len(position.held)
        gave_up = position.candidates - held
        pruned = f", {gave_up:,} less likely pruned" if gave_up else ""
        most = max((prefix.probability for prefix in position.held), default=1.0)
        first, rest = position.held[:SHOWN_PREFIXES], position.held[SHOWN_PREFIXES:]
        more = f"<details><summary>{len(rest)} more</summary><ul>{rows(rest, most)}</ul></details>" if rest else ""
        steps.append(
            f'<section class="lm-step"><h3>Code {number}</h3><p class="lm-hint">{held:,} of '
            f"{position.candidates:,} kept{pruned}</p><ul>{rows(first, most)}</ul>{more}</section>"
        )
    return f'<div class="lm-path">{"".join(steps)}</div>'


def rows(prefixes: tuple[HeldPrefix, ...], most: float) -> str:
    """Prefixes as items of a list, with bars in proportion to the probability `most`."""
    return "".join(row(prefix, prefix.probability / most if most else 0.0) for prefix in prefixes)


def row(prefix: HeldPrefix, length: float) -> str:
    """One prefix: its codes and probability, what it is about, and what became of it."""
    overview = prefix.overview
    if overview.documents == 1:
        what = text(overview.samples[0])
    else:
        named = about(overview.categories, overview.documents) or f"such as {text(overview.samples[0])}"
        what = f"{count(overview.documents, 'document')}: {named}"
    fate = "pruned next" if prefix.kept == 0 else ""
    kind = " lm-leads" if prefix.leads else " lm-pruned" if prefix.kept == 0 else ""
    return (
        f'<li class="lm-prefix{kind}"><div>{id_chips(prefix.codes)}{bar(length)}'
        f'<span class="lm-number">{percent(prefix.probability)}</span></div>'
        f'<div class="lm-what">{what}{f" · <em>{fate}</em>" if fate else ""}</div></li>'
    )
