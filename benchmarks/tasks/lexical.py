"""Search by words: BM25, through `bm25s` (and `PyStemmer`, for words without their endings)."""

from dataclasses import dataclass

from trainers.retrieval import Rankings

from .best import best_rows


@dataclass(frozen=True)
class BM25Settings:
    """How words are read and weighed.

    Attributes:
        k1: how slowly a word's repetitions saturate.
        b: how much long documents are held back, from 0 to 1.
        stemmer: of PyStemmer, such as `english`; None leaves the words as they are.
        stopwords: `en` leaves out the most frequent English words; None leaves them in.
    """

    k1: float = 1.5
    b: float = 0.75
    stemmer: str | None = None
    stopwords: str | None = "en"


class BM25:
    """BM25 as Lucene has it.

    Args:
        ids: of the documents.
        texts: of the documents.
        settings: see [`BM25Settings`].
    """

    def __init__(self, ids: list, texts: list[str], settings: BM25Settings | None = None):
        import bm25s

        self.ids, self.settings = ids, settings or BM25Settings()
        self.retriever = bm25s.BM25(method="lucene", k1=self.settings.k1, b=self.settings.b)
        self.retriever.index(self.words(texts), show_progress=False)

    def words(self, texts: list[str]) -> list[list[str]]:
        """The words of texts, of two letters and more, in lower case."""
        import bm25s

        stemmer = None
        if self.settings.stemmer:
            import Stemmer

            stemmer = Stemmer.Stemmer(self.settings.stemmer)
        return bm25s.tokenize(
            texts, stopwords=self.settings.stopwords or [], stemmer=stemmer, return_ids=False, show_progress=False
        )

    def __call__(self, queries: dict, depth: int) -> Rankings:
        """The best `depth` documents of every query, text by query id; those that share no word are none."""
        documents, scores = {}, {}
        for query, words in zip(queries, self.words(list(queries.values())), strict=True):
            documents[query], scores[query] = [], []
            if words:
                every = self.retriever.get_scores(words)
                rows = [row for row in best_rows(every, depth) if every[row] > 0]
                documents[query], scores[query] = [self.ids[row] for row in rows], every[rows].tolist()
        return Rankings(documents, scores)
