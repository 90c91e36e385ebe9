"""How far new documents are from those of an index: figures beside what chance alone gives, and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .text_codes import assigned_with_scores

DRAWS = 20
LEAST_BITS = 0.1  # of divergence above chance: less is no reason to train again, however sure it is
LEAST_SHARE = 0.2  # of documents above chance
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class Share:
    """A share of the new documents beside that of as many documents of the index.

    Attributes:
        found: of the new ones.
        by_chance: of documents drawn from the index, had they come as the last ones.
        documents: how many new ones.
    """

    found: float
    by_chance: float
    documents: int

    @property
    def is_large(self) -> bool:
        """Whether it is above chance by a fifth of all documents, and by three standard errors."""
        likely = (self.by_chance * self.documents + 1) / (self.documents + 2)
        error = np.sqrt(likely * (1 - likely) / self.documents)
        return self.found - self.by_chance > max(LEAST_SHARE, STANDARD_ERRORS * error)


@dataclass(frozen=True)
class Divergence:
    """Jensen-Shannon divergence, in bits from 0 to 1, of the codes at one position.

    Attributes:
        found: of the new documents and as many of the index, the mean over draws.
        by_chance: of two random halves of equal size from the index, for each draw.
    """

    found: float
    by_chance: tuple[float, ...]

    @property
    def is_large(self) -> bool:
        """Whether it is above their mean by a tenth of a bit, and by three standard deviations of the draws."""
        above = self.found - float(np.mean(self.by_chance))
        return above > max(LEAST_BITS, STANDARD_ERRORS * float(np.std(self.by_chance)))


@dataclass(frozen=True)
class Certainty:
    """Log-probabilities of the learned codes that texts get: how sure the model is of its IDs.

    Attributes:
        found: mean of the new documents.
        reference: mean of known ones.
        spread: standard deviation of the known ones.
        error: standard error of the difference of the means.
    """

    found: float
    reference: float
    spread: float
    error: float

    @property
    def is_low(self) -> bool:
        """Whether it is below the reference by more than its spread, and by three standard errors."""
        return self.reference - self.found > max(self.spread, STANDARD_ERRORS * self.error)


@dataclass(frozen=True)
class DriftReport:
    """New documents against those of an index; `print` shows it.

    Attributes:
        documents: new ones.
        known: documents of the index that they were compared with.
        divergences: one per learned position.
        unseen: documents whose learned codes no document of the index had.
        colliding: documents that share all learned codes with another one, known or new.
        log_probability: mean of the codes of the new documents.
        certainty: the same beside known documents, where their texts were given.
        room, largest: of the last position, and the largest group that shares its learned codes with the new documents
            in; `None` without a disambiguation position.
    """

    documents: int
    known: int
    divergences: list[Divergence]
    unseen: Share
    colliding: Share
    log_probability: float
    certainty: Certainty | None = None
    room: int | None = None
    largest: int | None = field(default=None)

    @property
    def reasons(self) -> list[str]:
        """What is off by the rules of [`measure_drift`]."""
        found = [
            f"the codes at position {t} are used otherwise" for t, d in enumerate(self.divergences, 1) if d.is_large
        ]
        if self.unseen.is_large:
            found.append("too many new documents have codes that no document had")
        if self.colliding.is_large:
            found.append("too many new documents share their codes")
        if self.certainty is not None and self.certainty.is_low:
            found.append("the model is less sure of their codes")
        return found

    @property
    def retrain(self) -> bool:
        """Whether to train a new indexer."""
        return bool(self.reasons)

    @property
    def advice(self) -> str:
        """One sentence."""
        if self.reasons:
            return f"Retrain: {'; '.join(self.reasons)}."
        if self.room is not None and self.largest > self.room:
            return f"Keep the model, with room for {self.largest} codes at its last position: resize_disambiguation."
        return "Keep the model: the new documents are like those it knows."

    def __str__(self) -> str:
        lines = [f"{self.documents:,} new documents beside {self.known:,} known ones"]
        for t, d in enumerate(self.divergences, 1):
            chance = f"{float(np.mean(d.by_chance)):.3f} ({min(d.by_chance):.3f} to {max(d.by_chance):.3f})"
            lines.append(f"codes at position {t}: divergence {d.found:.3f} bits, by chance {chance}")
        for name, share in (("with codes that are new", self.unseen), ("that share their codes", self.colliding)):
            lines.append(f"documents {name}: {share.found:.3f}, by chance {share.by_chance:.3f}")
        beside = f", of known documents {self.certainty.reference:.3f}" if self.certainty else ", no reference given"
        lines.append(f"mean log-probability of their codes: {self.log_probability:.3f}{beside}")
        if self.room is not None:
            lines.append(f"last position: room for {self.room:,}, the largest group would have {self.largest:,}")
        return "\n".join([*lines, self.advice])


def measure_drift(
    index,
    documents: Iterable[dict],
    reference: Iterable[dict] | None = None,
    batch_size: int = 64,
    draws: int = DRAWS,
    seed: int = 0,
) -> DriftReport:
    """Reads new documents with the model of an index, and compares their codes with those of the documents there.

    The advice is to retrain where at least one of these holds, each of which asks for an effect that matters and for
    more than chance:

    1. at a learned position, the divergence is above the mean of the draws by 0.1 bits and 3 of their standard
       deviations;
    2. the share of documents with learned codes that no document had is above chance by 0.2 and 3 standard errors;
    3. so is the share of documents that share their learned codes;
    4. the mean log-probability of the codes is below that of the reference by more than the standard deviation of the
       reference's documents and 3 standard errors.

    Chance is measured on documents drawn from the index: as many as the new ones, at most half of all.

    Args:
        index: a [`SemanticIndex`]; its own documents are not read.
        documents: new ones, `{"text": ...}`, or known ones with changed texts.
        reference: documents with texts that the model knows, for the log-probabilities.
        draws: of documents from the index.
        seed: of the draws.

    Raises:
        ValueError: no new documents, or fewer than 2 in the index.
    """
    texts = [document["text"] for document in documents]
    if not texts or len(index) < 2:
        raise ValueError(
            f"There are {len(texts)} new documents and {len(index)} known ones; expected 1 and 2 at least."
        )
    model, tokenizer = index.load_model()
    learned = len(index.codebook_sizes)
    ids, scores = assigned_with_scores(model, tokenizer, texts, batch_size)
    known, new = index.codes[:, :learned], ids.numpy() - index.offsets[:learned]
    certainty = None
    if reference is not None:
        known_texts = [document["text"] for document in reference]
        certainty = compare(scores.numpy(), assigned_with_scores(model, tokenizer, known_texts, batch_size)[1].numpy())
    has_room = index.has_disambiguation
    divergences, unseen, colliding, largest = beside_draws(known, new, draws, seed)
    return DriftReport(
        documents=len(new),
        known=len(known),
        divergences=divergences,
        unseen=unseen,
        colliding=colliding,
        log_probability=float(scores.mean()),
        certainty=certainty,
        room=index.position_sizes[-1] if has_room else None,
        largest=largest if has_room else None,
    )


def beside_draws(
    known: np.ndarray, new: np.ndarray, draws: int, seed: int
) -> tuple[list[Divergence], Share, Share, int]:
    """Figures of the codes of `known` `(N, learned positions)` and `new` `(n, learned positions)` documents, beside
    those of draws from the known ones: divergences by position, codes that are new, codes that are shared; and the
    largest group that shares its codes, known and new together."""
    groups = np.unique(np.concatenate([known, new]), axis=0, return_inverse=True)[1].reshape(-1)
    known_groups, new_groups = groups[: len(known)], groups[len(known) :]
    counts = np.bincount(known_groups, minlength=groups.max() + 1)
    together = np.bincount(groups)
    random = np.random.default_rng(seed)
    size = min(len(new), len(known) // 2)
    divergences, unseen, colliding = [([], []) for _ in range(known.shape[1])], [], []
    for _ in range(draws):
        rows = random.permutation(len(known))
        first, second = known[rows[:size]], known[rows[size : 2 * size]]
        mine = new[random.permutation(len(new))[:size]]
        for t, (found, by_chance) in enumerate(divergences):
            found.append(jensen_shannon(mine[:, t], second[:, t]))
            by_chance.append(jensen_shannon(first[:, t], second[:, t]))
        drawn = known_groups[rows[:size]]
        left = counts - np.bincount(drawn, minlength=len(counts))
        unseen.append((left[drawn] == 0).mean())
        colliding.append((counts[drawn] > 1).mean())
    return (
        [Divergence(float(np.mean(found)), tuple(by_chance)) for found, by_chance in divergences],
        Share(float((counts[new_groups] == 0).mean()), float(np.mean(unseen)), len(new)),
        Share(float((together[new_groups] > 1).mean()), float(np.mean(colliding)), len(new)),
        int(together.max()),
    )


def compare(found: np.ndarray, reference: np.ndarray) -> Certainty:
    """Log-probabilities `(n,)` of new documents beside those of known ones `(m,)`.

    Raises:
        ValueError: fewer than two known ones.
    """
    if len(reference) < 2:
        raise ValueError(f"The reference has {len(reference)} documents; expected at least 2.")
    spread = float(reference.std(ddof=1))
    error = spread * float(np.sqrt(1 / len(reference) + 1 / len(found)))
    return Certainty(float(found.mean()), float(reference.mean()), spread, error)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """Divergence in bits of two sets of codes, 0 for equal shares and 1 for nothing in common.

    ```python
    >>> jensen_shannon(np.array([0, 1]), np.array([1, 0, 0, 1])), jensen_shannon(np.array([0]), np.array([3, 4]))
    (0.0, 1.0)

    ```
    """
    size = int(max(first.max(), second.max())) + 1
    p, q = (np.bincount(codes, minlength=size) / len(codes) for codes in (first, second))
    return float(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2)


def entropy(shares: np.ndarray) -> float:
    """In bits."""
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())
