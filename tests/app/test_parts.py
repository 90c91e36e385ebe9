"""The parts of the page without a browser: what they find, what they say, and that nothing becomes markup."""

import gc
import json
import re
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from beam_path import num_candidates, path_html
from comparison import comparison_html, marked, shared_codes, shared_words, side_of
from finding import codes_from, find, found_html
from hypothesis import given
from hypothesis import strategies as st
from id_tree import place_named, tree_html
from loaded_model import CannotLoad, LoadedModel, Shelf
from markup import percent, text
from tiny_index import TEXTS, learned_index, write_folder
from tiny_page import NASTY, write_page_folder
from transformers import BertConfig, BertModel
from treemap import Rectangle, squarified

from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.text_codes import tokenize


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "tiny"
    write_page_folder(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return LoadedModel.of(str(folder))


class Markup(HTMLParser):
    """What a browser would make of a piece of HTML."""

    def __init__(self, markup: str):
        super().__init__()
        self.tags, self.words, self.open = [], "", []
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def assert_harmless(markup: str) -> Markup:
    page = Markup(markup)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not re.search(r"[$`{}]", markup)
    return page


def test_a_search_finds_what_the_model_finds(loaded):
    found, path = find(loaded, "w5 w53", 5)
    inputs = tokenize(loaded.tokenizer, "w5 w53", 99, return_tensors="pt")
    result = loaded.model.search(input_ids=inputs["input_ids"], index=loaded.index, num_beams=20, top_k=5)
    assert [hit.document for hit in found] == result.documents[0]
    torch.testing.assert_close(torch.tensor([hit.score for hit in found]), result.scores[0])
    assert [hit.codes for hit in found] == [loaded.codes_of(hit.document) for hit in found]
    assert len(path) == 3 and {prefix.kept for prefix in path[-1].held} == {None}


@pytest.mark.parametrize("labels", [[], ["Hats"]])
def test_the_path_tells_what_was_kept_and_pruned(loaded, labels):
    found, path = find(loaded, "w5 w53", 3, labels)
    codes = {tuple(row) for row in loaded.index.codes.tolist()}
    allowed = {tuple(row) for row in loaded.index.codes[loaded.labels["Hats"]].tolist()} if labels else codes
    held = [[prefix.codes for prefix in position.held] for position in path]
    before = {()}
    for number, position in enumerate(path, 1):
        there = {row[:number] for row in allowed if row[: number - 1] in before}
        assert position.candidates == len(there) and set(held[number - 1]) <= there
        assert sum(prefix.leads for prefix in position.held) == 1
        for prefix in position.held:
            assert prefix.overview.documents == sum(row[:number] == prefix.codes for row in codes)
            if number < len(path):
                assert prefix.kept == sum(longer[:number] == prefix.codes for longer in held[number])
        before = set(held[number - 1])
    assert found[0].codes == next(prefix.codes for prefix in path[-1].held if prefix.leads)
    assert labels or "pruned" in path_html(path)


def test_candidates_among_all_documents_are_counted_without_sorting_rows(loaded, monkeypatch):
    codes = loaded.index.codes
    held = [(int(code),) for code in np.unique(codes[:, 0])[:2]]
    by_sorting = num_candidates(loaded.tree, codes, 1, held)
    monkeypatch.setattr(np, "unique", lambda *_, **__: pytest.fail("rows are sorted"))
    assert num_candidates(loaded.tree, None, 1, held) == by_sorting


def test_filters(loaded):
    hats = {document for document in loaded.index.document_ids if loaded.category_of(document) == "Hats"}
    assert {hit.document for hit in find(loaded, "w5", 50, ["Hats"])[0]} == hats
    first = loaded.index.codes[0, 0]
    under = find(loaded, "w5", 50, None, f"<{first}>")[0]
    assert len(under) == (loaded.index.codes[:, 0] == first).sum() and all(hit.codes[0] == first for hit in under)
    both, path = find(loaded, "w5", 50, ["Hats"], str(first))
    assert {hit.document for hit in both} == hats & {hit.document for hit in under}
    assert path[0].candidates == 1


@pytest.mark.parametrize(
    "query, labels, prefix, message",
    [
        (" ", [], "", "Type what"),
        ("w5", ["Gloves"], "", "No document has the category 'Gloves'"),
        ("w5", [], "<99>", "begins with <99>"),
        ("w5", [], "1 1 1 1", "begins with <1><1><1><1>"),
        ("w5", [], "one", "an ID prefix is codes"),
        ("w5", [], "9" * 5000, "an ID prefix is codes"),
    ],
)
def test_what_cannot_be_searched_is_said(loaded, query, labels, prefix, message):
    with pytest.raises(ValueError, match=message):
        find(loaded, query, 10, labels, prefix)


@pytest.mark.parametrize("typed, codes", [("<12><407>", (12, 407)), (" 12, 407 ", (12, 407)), ("", ()), ("7", (7,))])
def test_prefixes_as_people_type_them(typed, codes):
    assert codes_from(typed) == codes


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.floats(0.2, 5))
def test_a_treemap_covers_its_rectangle_in_proportion(sizes, height):
    sizes, whole = sorted(sizes, reverse=True), Rectangle(2, 3, 4, height)
    places = squarified(sizes, whole)
    for size, place in zip(sizes, places, strict=True):
        assert place.width * place.height == pytest.approx(size / sum(sizes) * 4 * height)
        assert place.left >= 2 - 1e-6 and place.left + place.width <= 6 + 1e-6
        assert place.top >= 3 - 1e-6 and place.top + place.height <= 3 + height + 1e-6
    for i, a in enumerate(places):
        for b in places[:i]:
            across = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
            down = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
            assert across < 1e-6 or down < 1e-6, "two of them overlap"


def test_the_tree_shows_every_prefix_once_and_leads_back(loaded):
    codes = (int(loaded.index.codes[0, 0]),)
    page = Markup(tree_html(loaded, codes))
    tiles = [a["data-codes"] for tag, a in page.tags if tag == "button" and "lm-tile" in a.get("class", "")]
    expected = [" ".join(map(str, child.codes)) for child in loaded.tree.children(codes)]
    assert sorted(tiles) == sorted(expected)
    assert [a["tabindex"] for tag, a in page.tags if "tabindex" in a].count("0") == 1
    buttons = [attributes["data-codes"] for tag, attributes in page.tags if tag == "button"]
    assert buttons[:2] == ["", str(codes[0])] and f"{loaded.tree.overview(codes).documents} documents" in page.words


def test_a_whole_id_is_its_document(loaded):
    codes = place_named(loaded, "doc03")
    assert codes == loaded.codes_of("doc03") == place_named(loaded, " ".join(map(str, codes)))
    assert loaded.text_of("doc03") in Markup(tree_html(loaded, codes)).words
    for typed in ("doc99", "9" * 30):
        with pytest.raises(ValueError, match=f"'{typed}' is neither"):
            place_named(loaded, typed)


def test_a_click_opens_a_prefix_even_where_a_document_has_its_codes_as_id(tmp_path):
    named = learned_index()
    numbers = SemanticIndex.from_codes(range(-5, 25), named.codes[:, :2], [4, 5, 12])
    write_folder(tmp_path, numbers.attach(named.model, named.tokenizer))
    bare = LoadedModel.of(str(tmp_path))
    first = bare.codes_of(7)[0]
    assert place_named(bare, str(first), is_named=False) == (first,)
    assert place_named(bare, str(first)) == bare.codes_of(first), "what is typed may be a document"
    assert bare.document_named("-5") == -5 and bare.document_named("9" * 5000) is None
    pytest.importorskip("gradio")
    from page import Answers

    page = Answers(Shelf())
    opened = page.open_prefix(str(tmp_path), SimpleNamespace(codes=str(first)))
    assert opened == tree_html(page.model(str(tmp_path)), (first,))


def test_a_comparison_marks_what_both_have(loaded):
    one, other = side_of(loaded, "doc01"), side_of(loaded, "doc08")
    words, share = shared_words(loaded, one.text, other.text)
    assert words == {"w51"} and 0 < share < 1, "words of most documents say nothing"
    page = Markup(comparison_html(loaded, "doc01", "doc08"))
    assert [tag for tag, _ in page.tags].count("mark") == 2
    assert marked("a b<c b", {"b"}) == "a <mark>b</mark>&lt;c <mark>b</mark>"
    assert sum("lm-shared" in a.get("class", "") for _, a in page.tags) >= 2 * shared_codes(one.codes, other.codes)


def test_a_text_gets_the_models_codes(loaded):
    side = side_of(loaded, "w3 w51")
    assert side.name is None and side.codes == loaded.codes_of("doc01")[:2]
    assert "the same as far as the model chooses" in comparison_html(loaded, "w3 w51", "doc01")
    with pytest.raises(ValueError, match="Give two"):
        comparison_html(loaded, "doc01", " ")


def test_two_texts_may_share_codes_that_no_document_has(tmp_path):
    every = learned_index(range(40))
    by_first = {}
    for row, codes in enumerate(every.codes[:, :2].tolist()):
        by_first.setdefault(codes[0], {}).setdefault(codes[1], row)
    first, (one, other, *_) = next((first, rows.values()) for first, rows in by_first.items() if len(rows) > 1)
    write_folder(tmp_path, learned_index([row for row in range(40) if every.codes[row, 0] != first]))
    told = Markup(comparison_html(LoadedModel.of(str(tmp_path)), TEXTS[one], TEXTS[other])).words
    assert f"The IDs part at code 2 of 2. No document's ID begins with {first}." in told


def test_nothing_becomes_markup(loaded):
    found, path = find(loaded, NASTY, 50)
    pieces = [found_html(loaded, found), path_html(path), tree_html(loaded), comparison_html(loaded, "doc00", NASTY)]
    pieces += [tree_html(loaded, child.codes) for child in loaded.tree.children()]
    for piece in pieces:
        assert_harmless(piece)
    assert NASTY in Markup(pieces[0]).words and NASTY in Markup(pieces[3]).words


@given(st.text())
def test_any_text_stays_what_it_is(value):
    assert assert_harmless(f'<p title="{text(value)}"></p>').tags == [("p", {"title": value})]


@pytest.mark.parametrize(
    "share, said", [(0, "0 %"), (0.0004, "under 0.1 %"), (0.004, "0.4 %"), (0.0996, "10 %"), (1, "100 %")]
)
def test_shares_for_people(share, said):
    assert percent(share) == said


def test_a_folder_without_a_table_is_shown_by_ids(folder, tmp_path):
    write_folder(tmp_path, learned_index())
    bare = LoadedModel.of(str(tmp_path))
    found, path = find(bare, "w5", 3)
    assert bare.labels == {} and bare.text_of("doc00") == ""
    for piece in (found_html(bare, found), path_html(path), tree_html(bare), comparison_html(bare, "doc00", "doc01")):
        assert "doc" in assert_harmless(piece).words


def test_what_cannot_be_loaded_is_said_and_the_old_one_stays(folder, tmp_path, monkeypatch):
    shelf = Shelf(room=1)
    first = shelf.model(str(folder))
    for name, message in (("", "Give a model folder"), (str(tmp_path), "cannot be shown"), ("no where", "no where")):
        with pytest.raises(CannotLoad, match=message):
            shelf.reload(name)
    assert shelf.model(str(folder)) is first
    assert shelf.reload(str(folder)) is not first
    monkeypatch.setenv("SPACE_ID", "org/space")
    for name in (str(folder), "x" * 5000, "a\0b"):
        with pytest.raises(CannotLoad, match="on a Space, give a Hub repository"):
            shelf.reload(name)


@pytest.fixture
def answers(loaded):
    pytest.importorskip("gradio")
    from page import Answers

    return Answers(SimpleNamespace(model=lambda name: loaded))


@pytest.mark.parametrize(
    "number, documents", [(None, 10), (3, 3), (2.7, 2), (0, 1), (-4, 1), (99, 30), (1e400, 30), (True, 1)]
)
def test_any_number_of_documents_is_answered(answers, number, documents):
    found, _, ids = answers.search("tiny", "w5", number, None, None)
    assert len(ids) == documents == found.count("<li class"), "there are 30 documents"


@pytest.mark.parametrize(
    "query, number, said",
    [(None, 10, "Type what"), (None, None, "Type what"), ("w5", "abc", "abc"), ("w5", float("nan"), "nan")],
)
def test_what_was_not_given_is_said(answers, query, number, said):
    found, path, ids = answers.search("tiny", query, number, [], "")
    assert said in found and 'role="alert"' in found and (path, ids) == ("", [])


@pytest.mark.slow
def test_clients_may_leave_fields_empty(folder):
    pytest.importorskip("gradio")
    from gradio_client import Client

    from app import launch

    page, (_, url, _) = launch(Shelf(), str(folder), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(url, verbose=False)
        for number, documents in ((None, 10), (99, 30)):
            found, _ = client.predict("w5", number, None, None, api_name="/search")
            assert found.count("<li class") == documents
        assert "Type what" in client.predict(None, None, None, None, api_name="/search")[0]
    finally:
        page.close(verbose=False)


def test_visitors_take_turns_at_the_tokenizer_and_leave_its_settings(folder, monkeypatch):
    loaded, asked = LoadedModel.of(str(folder)), []
    call = type(loaded.tokenizer).__call__

    def watched(tokenizer, *arguments, **settings):
        asked.append((loaded._tokenizing.locked(), settings))
        return call(tokenizer, *arguments, **settings)

    monkeypatch.setattr(type(loaded.tokenizer), "__call__", watched)
    find(loaded, "w5 w53", 5)
    side_of(loaded, "w5 w53 w5")
    assert [is_alone for is_alone, _ in asked] == [True, True]
    assert asked[0][1] == asked[1][1], "one that changes padding or truncation breaks into the others' calls"


class Gates:
    """A loader that waits for each name's gate, and counts: who loads is seen, and for how long is ours to say."""

    def __init__(self, monkeypatch):
        self.started, self.open = defaultdict(threading.Event), defaultdict(threading.Event)
        self.loads, self.broken = Counter(), set()
        monkeypatch.setattr(LoadedModel, "of", self.load)

    def load(self, name):
        self.loads[name] += 1
        self.started[name].set()
        assert self.open[name].wait(20)
        if name in self.broken:
            raise CannotLoad(f"{name} is broken")
        return SimpleNamespace(name=name)

    def leave_open(self, *names):
        for name in names:
            self.open[name].set()


@pytest.fixture
def gates(monkeypatch):
    gates = Gates(monkeypatch)
    yield gates
    gates.leave_open(*list(gates.open))  # a test that failed leaves no thread behind


def test_nobody_waits_for_what_another_visitor_loads(gates):
    shelf = Shelf(room=2)
    gates.leave_open("first", "third")
    first = shelf.model("first")
    with ThreadPoolExecutor(4) as visitors:
        loading = [visitors.submit(shelf.model, "second") for _ in range(2)]
        try:
            assert gates.started["second"].wait(20)
            assert visitors.submit(shelf.model, "first").result(timeout=20) is first
            assert visitors.submit(shelf.model, "third").result(timeout=20).name == "third"
            assert visitors.submit(shelf.reload, "first").result(timeout=20) is not first
        finally:
            gates.leave_open("second")
        assert loading[0].result(20) is loading[1].result(20)
    assert gates.loads == {"first": 2, "second": 1, "third": 1}


def test_a_model_is_never_loaded_twice_at_once(gates, monkeypatch):
    shelf, load, is_alone = Shelf(), LoadedModel.of, []

    def watched(name):
        is_alone.append(shelf._turns[name].locked() and not inside)
        inside.append(name)
        loaded = load(name)
        inside.remove(name)
        return loaded

    inside: list[str] = []
    monkeypatch.setattr(LoadedModel, "of", watched)
    with ThreadPoolExecutor(4) as visitors:
        loading = [visitors.submit(ask, "first") for ask in (shelf.reload, shelf.model, shelf.reload, shelf.model)]
        try:
            assert gates.started["first"].wait(20)
        finally:
            gates.leave_open("first")
        assert {done.result(20).name for done in loading} == {"first"}
    assert all(is_alone) and 2 <= len(is_alone) <= 3, "each reload loads, and at most one of the others"


def test_a_failed_load_leaves_nothing_behind(gates):
    shelf = Shelf()
    gates.leave_open("first", "bad")
    first, gates.broken = shelf.model("first"), {"bad", "first"}
    for load, name in ((shelf.keep, "bad"), (shelf.model, "bad"), (shelf.reload, "first")):
        with pytest.raises(CannotLoad, match=f"{name} is broken"):
            load(name)
    assert shelf.model("first") is first
    gc.collect()
    assert list(shelf._turns) == [] and list(shelf._models) == ["first"] and not shelf._own
    gates.broken = set()
    assert shelf.model("bad").name == "bad" and gates.loads["bad"] == 3


def test_the_pages_own_model_stays_whatever_visitors_load(gates):
    gates.leave_open("own", *"abcd")
    shelf = Shelf(room=2)
    own = shelf.keep("own")
    visited = {name: shelf.model(name) for name in "abcd"}
    assert shelf.model("own") is own and gates.loads["own"] == 1
    assert [shelf.model(name) is visited[name] for name in "dc"] == [True, True], "the last ones beside it"
    assert shelf.model("a") is not visited["a"]
    again = shelf.reload("own")
    assert again is not own
    for name in "abcd":
        shelf.model(name)
    assert shelf.model("own") is again
    with pytest.raises(ValueError, match="room=0"):
        Shelf(room=0)


def test_models_of_others_are_refused_and_nobody_is_asked_to_trust_their_code(tmp_path, monkeypatch):
    write_page_folder(tmp_path)
    BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(CannotLoad, match="of the type bert"):
        LoadedModel.of(str(tmp_path))
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked for trust"))
    with pytest.raises(CannotLoad, match="custom code"):
        LoadedModel.of(str(tmp_path))


def test_a_damaged_table_is_said(folder, tmp_path):
    write_page_folder(tmp_path)
    (tmp_path / "documents.parquet").write_bytes(b"PAR1")
    with pytest.raises(CannotLoad, match="documents.parquet"):
        LoadedModel.of(str(tmp_path))
