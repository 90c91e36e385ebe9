"""The page: what can be typed and clicked, and which part of the app answers."""

import math
from pathlib import Path

import gradio as gr
from beam_path import path_html
from comparison import comparison_html
from finding import find, found_html
from id_tree import place_named, tree_html
from loaded_model import CannotLoad, LoadedModel, Shelf
from markup import count, note, text

HERE = Path(__file__).parent
NUM_DOCUMENTS, MOST_DOCUMENTS = 10, 50
NO_MODEL = "Load a model first: give a folder or a Hub repository under Model."
EXAMPLES_OF_NAMES = "Folder such as outputs/python_docs, or Hub repository such as org/lmindexer-beauty"
# Clicks and arrow keys of everything that has its codes in `data-codes`.
OPENS_PREFIXES = (HERE / "tree.js").read_text(encoding="utf-8")
SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """Gradio's own look with fonts that every machine has: nothing is fetched from elsewhere."""
    look = gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=MONO_FONTS)
    return look.set(
        # Contrast of at least 4.5 to 1 in both themes.
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
        input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700", button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        block_border_width="0px", block_border_width_dark="0px", block_padding="0px", block_shadow="none",
        block_background_fill="transparent", block_background_fill_dark="transparent",
        input_border_width="1px", input_background_fill="*background_fill_primary", input_radius="8px",
        block_title_text_weight="600",
    )  # fmt: skip


def html(value: str = "", **settings) -> gr.HTML:
    """A part that only our style sheet dresses."""
    return gr.HTML(value, apply_default_css=False, **settings)


class Answers:
    """What the page does when something is typed or clicked. A visitor's state is the name of their model."""

    def __init__(self, shelf: Shelf):
        self.shelf = shelf

    def model(self, name: str) -> LoadedModel:
        """A visitor's model. Raises CannotLoad where there is none."""
        if not name:
            raise CannotLoad(NO_MODEL)
        return self.shelf.model(name)

    def search(self, name: str, query: str | None, number: float | None, labels: list[str] | None, prefix: str | None):
        """Documents, the beam's path, and the ids that were found. Clients may send `None` for what is not given."""
        try:
            loaded = self.model(name)
            found, path = find(loaded, query or "", documents_wanted(number), labels, prefix or "")
        except (CannotLoad, ValueError) as error:
            return note(str(error), "error"), "", []
        return found_html(loaded, found), path_html(path), [str(hit.document) for hit in found]

    def linked(self, name: str, request: gr.Request):
        """The search of a link that ends in `?query=...`."""
        query = request.query_params.get("query", "")
        return [query, *self.search(name, query, NUM_DOCUMENTS, [], "")] if query else [gr.skip()] * 4

    def open_prefix(self, name: str, event: gr.EventData):
        """The tree under the prefix that was clicked: its codes, even where they are the id of a document as well."""
        return self.tree(name, getattr(event, "codes", "") or "", is_named=False)

    def tree(self, name: str, typed: str, is_named: bool = True):
        """The tree under a prefix, or at a document; with `is_named` False no document is looked for."""
        try:
            loaded = self.model(name)
            return tree_html(loaded, place_named(loaded, typed or "", is_named))
        except (CannotLoad, ValueError) as error:
            return note(str(error), "error")

    def compare(self, name: str, first: str, second: str):
        """Two documents or texts."""
        try:
            return comparison_html(self.model(name), first or "", second or "")
        except (CannotLoad, ValueError) as error:
            return note(str(error), "error")

    def load(self, name: str, wanted: str):
        """Another model; when it cannot be loaded, only the message changes."""
        try:
            loaded = self.shelf.reload(wanted or "")
        except CannotLoad as error:
            stays = f" {name} stays." if name else ""
            return [name, note(f"{error}{stays}", "error"), *[gr.skip()] * 10]
        return [loaded.name, note(f"{loaded.name} is loaded."), *shown(loaded), "", "", [], "", ""]


def documents_wanted(number: float | None) -> int:
    """How many documents a search is to find: the next number that the slider has, its default for `None`.

    Raises:
        ValueError: something else than a number.
    """
    if number is None:
        return NUM_DOCUMENTS
    if not isinstance(number, (int, float)) or math.isnan(number):
        raise ValueError(f"Found {number!r} as the number of documents: give one from 1 to {MOST_DOCUMENTS}.")
    return int(min(max(number, 1), MOST_DOCUMENTS))


def shown(loaded: LoadedModel) -> list:
    """Header, choice of categories, tree, and two neighbours to compare, of a model."""
    first, second = neighbours(loaded)
    return [
        header_html(loaded), gr.update(choices=list(loaded.labels), value=[], visible=bool(loaded.labels)),
        tree_html(loaded), first, second,
    ]  # fmt: skip


def neighbours(loaded: LoadedModel) -> tuple[str, str]:
    """Two documents whose IDs part late, to begin with."""
    documents, codes = loaded.tree.document_ids, loaded.tree.codes
    if len(documents) < 2:
        return str(documents[0]), str(documents[0])
    same = (codes[1:] == codes[:-1]).cumprod(axis=1).sum(axis=1)
    row = int(same.argmax())
    return str(documents[row]), str(documents[row + 1])


def header_html(loaded: LoadedModel | None) -> str:
    """Which model this is, and how its IDs are made."""
    if loaded is None:
        return f'<header class="lm-header"><h1>LMIndexer</h1><p>{text(NO_MODEL)}</p></header>'
    sizes = " × ".join(f"{size:,}" for size in loaded.index.codebook_sizes)
    more = ", and one that tells documents apart" if loaded.index.has_disambiguation else ""
    return (
        f'<header class="lm-header"><h1>LMIndexer</h1><p><b>{text(Path(loaded.name).name)}</b> · '
        f"{count(len(loaded.index), 'document')} · codes: {sizes}{more}</p></header>"
    )


def build(shelf: Shelf, name: str = "") -> gr.Blocks:
    """The page, whose visitors begin with the model `name`, if there is one."""
    answers = Answers(shelf)
    loaded = shelf.keep(name) if name else None
    with gr.Blocks(title="LMIndexer", analytics_enabled=False, fill_width=True) as page:
        visitor, found_ids = gr.State(name), gr.State([])
        header = html(header_html(loaded))
        with gr.Tabs(selected="search" if loaded else "model"):
            with gr.Tab("Search", id="search"):
                search = search_part(answers, visitor, found_ids)
            with gr.Tab("Tree", id="tree"):
                tree = tree_part(answers, visitor)
            with gr.Tab("Compare", id="compare"):
                *pair, compared = comparison_part(answers, visitor, found_ids)
            with gr.Tab("Model", id="model"):
                wanted = gr.Textbox(name, label="Model folder or Hub repository", info=EXAMPLES_OF_NAMES, max_lines=1)
                load = gr.Button("Load", variant="primary", elem_classes="lm-button")
                status = html(elem_id="lm-status", min_height=40)
        if loaded:
            for part, start in zip((search["labels"], tree, *pair), shown(loaded)[1:], strict=True):
                begin_with(part, start)
        changed = [visitor, status, header, search["labels"], tree, *pair, search["found"], search["path"], found_ids,
                   search["prefix"], compared]  # fmt: skip
        gr.on([load.click, wanted.submit], answers.load, [visitor, wanted], changed, api_name="load_model",
              show_progress="full", show_progress_on=status)  # fmt: skip
        page.load(answers.linked, visitor, [search["query"], search["found"], search["path"], found_ids],
                  api_visibility="private", show_progress="hidden")  # fmt: skip
    return page


def begin_with(part, start) -> None:
    """Gives a part its first value, or its first choices."""
    if isinstance(start, dict):
        part.choices = [(choice, choice) for choice in start["choices"]]
        part.visible = start["visible"]
    else:
        part.value = start


def search_part(answers: Answers, visitor: gr.State, found_ids: gr.State) -> dict:
    """Fields of the search and its results."""
    query = gr.Textbox(
        label="Query", placeholder="what you are looking for", submit_btn="Search", elem_id="lm-query", max_lines=1
    )
    with gr.Accordion("Filters", open=False), gr.Row():
        labels = gr.Dropdown([], multiselect=True, label="Only these categories", elem_id="lm-labels")
        prefix = gr.Textbox(label="Only IDs that begin with", placeholder="<12><40>", elem_id="lm-prefix")
        number = gr.Slider(1, MOST_DOCUMENTS, NUM_DOCUMENTS, step=1, label="Documents")
        number.preprocess = lambda sent: sent  # Gradio's own fails for null; `documents_wanted` looks at it
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            html("<h2>Documents</h2>")
            found = html(elem_id="lm-found", min_height=60)
        with gr.Column(scale=2, min_width=320):
            html("<h2>How the beam got there</h2>")
            path = html(elem_id="lm-path", min_height=60)
    gr.on(
        [query.submit, prefix.submit, labels.input, number.release], answers.search,
        [visitor, query, number, labels, prefix], [found, path, found_ids], api_name="search",
        show_progress="minimal", trigger_mode="always_last",
    )  # fmt: skip
    return {"query": query, "labels": labels, "prefix": prefix, "found": found, "path": path}


def tree_part(answers: Answers, visitor: gr.State) -> gr.HTML:
    """The tree, and a field to go anywhere in it."""
    go = gr.Textbox(label="Go to an ID prefix or a document", placeholder="<12><40>", elem_id="lm-go", max_lines=1)
    tree = html(elem_id="lm-tree", js_on_load=OPENS_PREFIXES, min_height=200)
    go.submit(answers.tree, [visitor, go], tree, api_name="tree", show_progress="minimal")
    tree.click(answers.open_prefix, visitor, tree, api_visibility="private", show_progress="hidden")
    return tree


def comparison_part(answers: Answers, visitor: gr.State, found_ids: gr.State) -> list:
    """Two fields, and what they have in common."""
    with gr.Row():
        first = gr.Textbox(label="First document id or text", elem_id="lm-first", min_width=280)
        second = gr.Textbox(label="Second document id or text", elem_id="lm-second", min_width=280)
    with gr.Row():
        compare = gr.Button("Compare", variant="primary", elem_classes="lm-button")
        take = gr.Button("Take the first two found", elem_classes="lm-button")
    result = html(elem_id="lm-comparison", min_height=60)
    fields = [visitor, first, second]
    gr.on([compare.click, first.submit, second.submit], answers.compare, fields, result, api_name="compare",
          show_progress="minimal")  # fmt: skip

    def two_of(found: list, *typed: str):
        return found[:2] if len(found) > 1 else typed

    take.click(two_of, [found_ids, first, second], [first, second], api_visibility="private").then(
        answers.compare, fields, result, api_visibility="private"
    )
    return [first, second, result]
