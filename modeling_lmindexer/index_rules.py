"""What an index asks of document ids and codes, and the numbers of documents that share their learned codes."""

from collections.abc import Sequence

import numpy as np
import torch


def number_in_group(codes: np.ndarray, document_ids: Sequence) -> np.ndarray:
    """Disambiguation codes `(N,)`: the place of each document among those with its codes, in order of document id.

    Args:
        codes: learned codes `(N, positions)`.
        document_ids: `N` ids, all integers or all strings.
    """
    order = np.lexsort((np.asarray(document_ids), *codes.T[::-1]))
    sorted_codes = codes[order]
    starts = np.ones(len(codes), dtype=bool)
    starts[1:] = (sorted_codes[1:] != sorted_codes[:-1]).any(axis=1)
    numbers = np.arange(len(codes))
    result = np.empty(len(codes), dtype=np.int64)
    result[order] = numbers - np.maximum.accumulate(np.where(starts, numbers, 0))
    return result


def id_texts(codes: np.ndarray) -> list[str]:
    """IDs `(N, positions)` as text, such as `<12><407><0>`."""
    template = "<%d>" * codes.shape[1]
    return [template % tuple(row) for row in codes.tolist()]


def check_ids(document_ids: Sequence) -> list:
    """The ids as a list, once they are known to be unique and of one kind.

    Raises:
        ValueError: none at all, duplicates, or anything but all integers or all strings.
    """
    ids = document_ids.tolist() if isinstance(document_ids, np.ndarray | torch.Tensor) else list(document_ids)
    ids = [i.item() if isinstance(i, np.generic) else i for i in ids]
    if not ids:
        raise ValueError("There are no documents; an index holds at least one.")
    check_kind(ids)
    if len(set(ids)) < len(ids):
        seen: set = set()
        repeated = list(dict.fromkeys(i for i in ids if i in seen or seen.add(i)))
        raise ValueError(f"{len(repeated)} document ids occur more than once: {repeated[:5]}. Make them unique.")
    return ids


def check_kind(ids: list) -> None:
    """Raises ValueError for ids that are not all integers of 64 bits or all strings of Unicode text."""
    if not (all(type(i) is int for i in ids) or all(type(i) is str for i in ids)):
        raise ValueError(
            f"Document ids must be all integers or all strings, got {sorted({type(i).__name__ for i in ids})}."
        )
    if ids and type(ids[0]) is int and not -(2**63) <= min(ids) <= max(ids) < 2**63:
        raise ValueError(f"Document ids go from {min(ids)} to {max(ids)}, integers of 64 bits are expected: use text.")
    if ids and type(ids[0]) is str:
        try:
            "".join(ids).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"Document ids hold half a character (a lone surrogate), no text: {error}.") from None


def check_codes(
    codes: np.ndarray, document_ids: list, position_sizes: Sequence[int], has_disambiguation: bool = True
) -> np.ndarray:
    """The codes `(N, positions)`, once they are known to fit their positions.

    Raises:
        ValueError: another shape, a code outside its codebook, or a group larger than the room of the last position.
    """
    if codes.shape != (len(document_ids), len(position_sizes)):
        raise ValueError(f"Expected codes of shape {(len(document_ids), len(position_sizes))}, got {codes.shape}.")
    sizes = np.asarray(position_sizes)
    learned = len(sizes) - has_disambiguation
    outside = codes < 0
    outside[:, :learned] |= codes[:, :learned] >= sizes[:learned]
    if outside.any():
        row = int(outside.any(axis=1).argmax())
        raise ValueError(
            f"Document {document_ids[row]!r} has the codes {codes[row].tolist()}; the sizes are {sizes.tolist()}."
        )
    if has_disambiguation:
        check_room(int(codes[:, -1].max()) + 1, sizes[-1])
    return codes


def check_room(documents: int, room: int) -> None:
    """Raises ValueError when a group of documents outgrows the room of the last position."""
    if documents > room:
        raise ValueError(
            f"{documents} documents share their learned codes, the last position has room for {room}: call "
            f"model.resize_disambiguation({documents}) or more, and the same of the index if there is one."
        )


def check_free(taken: list[set], group_of: np.ndarray, codes: np.ndarray, size: int) -> None:
    """Raises ValueError when new documents with `codes` `(n, positions)` outnumber the codes left after a prefix."""
    used = np.array([len(group) for group in taken])
    added = np.bincount(group_of, minlength=len(taken))
    if (used + added > size).any():
        group = int((used + added).argmax())
        prefix = "".join(f"<{code}>" for code in codes[int((group_of == group).argmax()), :-1].tolist())
        where = f" that begin with {prefix}" if prefix else ""
        raise ValueError(
            f"There are {used[group]} documents{where} and {added[group]} new ones, for {size} codes at the last "
            "position: remove some, or index anew with a larger last codebook or with a disambiguation position."
        )


def check_disambiguation(has_disambiguation: bool) -> None:
    """Raises ValueError where IDs have no last position that could grow."""
    if not has_disambiguation:
        raise ValueError(
            "The IDs have no disambiguation position, and giving them one would change all of them: index anew with "
            "num_disambiguation_codes of at least 1."
        )
