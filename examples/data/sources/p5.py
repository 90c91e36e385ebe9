"""The files of P5, made from Amazon's reviews of 2014: items by number and the histories of users."""

import json
from dataclasses import dataclass
from pathlib import Path

from ..histories import History
from ..rows import CorpusError
from .amazon import RELEASES, item_texts, text_counts
from .files import check_columns, text_lines, whole_number
from .forms import Recommendation


@dataclass
class P5Settings:
    """There is nothing to choose: filter and order are in the files."""


def convert_p5(inputs: dict[str, list[Path]], settings: P5Settings) -> Recommendation:
    """Items with P5's numbers and their `asin`, and histories as they stand.

    Args:
        inputs: `sequences` (sequential_data.txt: `user item item ...`, oldest first), `datamaps` (datamaps.json, of
            which `item2id` is read) and `meta` (meta.json.gz, or Amazon's own).

    Raises:
        CorpusError: a line or a key that is none, or an item that is not in `item2id`.
    """
    (sequences,), (datamaps,), (meta,) = (inputs[role] for role in ("sequences", "datamaps", "meta"))
    asins = _asins(datamaps)
    histories, seen = [], set()
    for number, line in text_lines(sequences):
        where = f"{sequences}, line {number}"
        user, *items = (whole_number(value, where, "an id") for value in line.split())
        unknown = [item for item in items if item not in asins]
        if unknown:
            raise CorpusError(f"{where}: item {unknown[0]} is not in item2id of {datamaps}.")
        if user in seen:
            raise CorpusError(f"{where}: user {user} has a line already.")
        seen.add(user)
        histories.append(History(str(user), items))
    texts = item_texts(RELEASES["2014"], meta, set(asins.values()))
    rows = [{"id": item, "asin": asins[item]} | texts[asins[item]] for item in sorted(asins)]
    return Recommendation(rows, histories, text_counts(texts))


def _asins(datamaps: Path) -> dict[int, str]:
    """Amazon's ids of items by their numbers."""
    try:
        maps = json.loads(datamaps.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise CorpusError(f"{datamaps} is not JSON ({error}); expected an object with item2id.") from error
    check_columns(maps, ("item2id",), str(datamaps))
    return {whole_number(number, f"{datamaps}, item2id", asin): asin for asin, number in maps["item2id"].items()}
