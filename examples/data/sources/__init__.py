"""Converters from public downloads to the forms that the scripts read; `examples/convert_data.py` runs them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .amazon import RELEASES, AmazonSettings, convert_amazon
from .esci import EsciSettings, convert_esci
from .msmarco import SPLITS, MsMarcoSettings, convert_msmarco
from .natural_questions import NaturalQuestionsSettings, convert_nq
from .p5 import P5Settings, convert_p5


@dataclass(frozen=True)
class Source:
    """A kind of download.

    Attributes:
        convert: from files by role and settings to a `Recommendation` or a `Retrieval`.
        settings: dataclass of what can be chosen.
        needed, optional: roles of files.
        many: roles that several files may have.
    """

    convert: Callable
    settings: type
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    many: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        return (*self.needed, *self.optional)


_MSMARCO_ROLES = [f"{split}_{kind}" for split in SPLITS for kind in ("queries", "qrels")]
SOURCES = {
    f"amazon_{year}": Source(
        partial(convert_amazon, release), AmazonSettings, needed=("reviews", "meta"), many=("reviews",)
    )
    for year, release in RELEASES.items()
} | {
    "p5": Source(convert_p5, P5Settings, needed=("sequences", "datamaps", "meta")),
    "esci": Source(convert_esci, EsciSettings, needed=("examples",), optional=("products", "items")),
    "nq320k": Source(convert_nq, NaturalQuestionsSettings, needed=("train", "test")),
    "msmarco": Source(
        convert_msmarco,
        MsMarcoSettings,
        needed=("collection", *_MSMARCO_ROLES[:4]),
        optional=tuple(_MSMARCO_ROLES[4:]),
    ),
}
