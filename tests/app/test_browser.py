"""The page in a real Chromium, where there is one: what a visitor does, with no error in the console."""

import re
import shutil

import pytest
from loaded_model import Shelf
from tiny_page import NASTY, write_page_folder

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two model folders, and one that is none."""
    root = tmp_path_factory.mktemp("page")
    write_page_folder(root / "first")
    write_page_folder(root / "second", range(5, 40))
    (root / "broken").mkdir()
    return root


@pytest.fixture(scope="module")
def address(folders):
    """Where the page of the first folder is served."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    pytest.importorskip("gradio")
    from app import launch

    served, (_, url, _) = launch(
        Shelf(), str(folders / "first"), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1"
    )
    yield url
    served.close(verbose=False)


@pytest.fixture(scope="module")
def browser(address):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page; afterwards nothing may have gone wrong or out to another machine."""
    contexts, wrong = [], []

    def watch(page):
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
        page.on("request", lambda request: wrong.append(request.url) if is_outside(request) else None)
        page.on("requestfailed", lambda request: wrong.append(request.url) if is_lost(request) else None)

    def is_outside(request) -> bool:
        return not request.url.startswith((address, "data:", "blob:"))

    def opened(query="", **settings):
        contexts.append(browser.new_context(**({"viewport": {"width": 1240, "height": 900}} | settings)))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        watch(page)
        page.goto(address + query)
        page.get_by_role("textbox", name="Query").wait_for()
        return page

    yield opened
    stolen = [page.evaluate("window.stolen") for context in contexts for page in context.pages]
    assert wrong == [] and set(stolen) <= {None}
    for context in contexts:
        context.close()


def is_lost(request) -> bool:
    """Whether a request failed; Gradio itself ends its stream of events when it needs no more."""
    return not (request.failure == "net::ERR_ABORTED" and "/queue/data" in request.url)


def search(page, query: str) -> list[str]:
    """Types a query and Enter; names of the documents that come."""
    field = page.get_by_role("textbox", name="Query")
    field.fill(query)
    with page.expect_response(re.compile("/queue/data")):
        field.press("Enter")
    return found(page)


def found(page) -> list[str]:
    page.locator("#lm-found .lm-card").first.wait_for()
    return page.locator("#lm-found .lm-card h3").all_inner_texts()


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_search_shows_documents_and_the_path_and_no_markup_of_theirs(visit):
    page = visit()
    assert len(search(page, "w5 w53")) == 10
    steps = page.locator("#lm-path .lm-step")
    assert steps.count() == 3 and steps.locator(".lm-leads").count() == 3
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("spinbutton", name="Documents").fill("30")
    page.get_by_role("textbox", name="Only IDs that begin with").press("Enter")
    page.locator("#lm-found .lm-card").nth(29).wait_for()
    text = page.locator("#lm-found").inner_text()
    assert "<script>window.stolen = 1</script>" in text and "${1+1} {{value}} **bold** `code`" in text


def test_filters_leave_what_was_asked_for(visit):
    page = visit()
    search(page, "w5 w53")
    page.get_by_role("button", name="Filters").click()
    labels = page.get_by_label("Only these categories")
    labels.click()
    page.get_by_role("option", name="Hats").click()
    page.wait_for_function("[...document.querySelectorAll('#lm-found .lm-label')].every(x => x.innerText == 'Hats')")
    prefix = page.get_by_role("textbox", name="Only IDs that begin with")
    prefix.fill("<99>")
    prefix.press("Enter")
    page.get_by_role("alert").get_by_text("begins with <99>").wait_for()
    assert page.locator(".lm-card").count() == 0


def test_a_link_with_a_query_searches(visit):
    page = visit("?query=w5+w53")
    assert len(found(page)) == 10 and page.get_by_role("textbox", name="Query").input_value() == "w5 w53"


def test_the_tree_opens_by_click_and_leads_back(visit):
    page = visit()
    open_tab(page, "Tree")
    crumbs = page.get_by_role("navigation", name="Path in the tree")
    whole = crumbs.inner_text()
    page.locator(".lm-tile").first.click()
    crumbs.get_by_role("button").nth(1).wait_for()
    assert page.locator(".lm-categories li").count() and page.locator(".lm-documents li").count()
    page.locator(".lm-documents button").first.click()
    crumbs.get_by_role("button").nth(3).wait_for()
    crumbs.get_by_role("button", name="All IDs").click()
    crumbs.get_by_role("button").nth(1).wait_for(state="detached")
    assert crumbs.inner_text() == whole
    go = page.get_by_label("Go to an ID prefix or a document")
    go.fill("doc07")
    go.press("Enter")
    page.get_by_text("1 document", exact=True).wait_for()


def test_two_documents_are_compared(visit):
    page = visit()
    search(page, "w5 w53")
    open_tab(page, "Compare")
    page.get_by_role("button", name="Take the first two found").click()
    page.locator(".lm-pair .lm-card").nth(1).wait_for()
    second = page.get_by_label("Second document id or text")
    second.fill(f"w5 w53 {NASTY}")
    second.press("Enter")
    page.get_by_role("heading", name="Your text").wait_for()
    assert NASTY in page.locator(".lm-pair").inner_text()


def test_another_folder_is_loaded_and_a_bad_one_is_not(visit, folders):
    page = visit()
    search(page, "w5 w53")
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Only IDs that begin with").fill("3 3 3")
    open_tab(page, "Compare")
    page.get_by_role("button", name="Compare").click()
    page.locator(".lm-comparison").wait_for()
    open_tab(page, "Model")
    field = page.get_by_label("Model folder or Hub repository")
    field.wait_for()
    page.wait_for_timeout(1000)  # a tab that opens gives its field the first value a moment after it shows it
    field.fill(str(folders / "broken"))
    page.get_by_role("button", name="Load").click()
    page.get_by_role("alert").get_by_text("cannot be shown").wait_for()
    assert "30 documents" in page.locator(".lm-header").inner_text()
    field.fill(str(folders / "second"))
    field.press("Enter")
    page.locator(".lm-header").get_by_text("35 documents").wait_for()
    open_tab(page, "Search")
    assert page.locator(".lm-card").count() == 0, "what was found or compared is not of this model"
    assert page.get_by_label("Only IDs that begin with").input_value() == ""
    assert set(search(page, "w36 w50")) <= {f"doc{i:02}" for i in range(5, 40)}


def test_everything_works_by_keyboard(visit):
    page = visit()

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if focused.count() and focused.evaluate(f"node => node.matches({selector!r})"):
                assert focused.evaluate("node => getComputedStyle(node).outlineStyle") == "solid", "focus is not seen"
                return
        raise AssertionError(f"Tab never comes to {selector}")

    page.locator("body").press("Tab")
    tab_to("#lm-query textarea, #lm-query input")
    page.keyboard.type("w5 w53")
    page.keyboard.press("Enter")
    found(page)
    page.get_by_role("tab", name="Search").focus()
    page.keyboard.press("Tab")
    page.get_by_role("tab", name="Tree").focus()
    page.keyboard.press("Enter")
    tab_to(".lm-tile")
    first = page.locator(":focus").get_attribute("data-codes")
    page.keyboard.press("ArrowRight")
    second = page.locator(":focus").get_attribute("data-codes")
    assert second not in (None, first)
    page.keyboard.press("Enter")
    page.get_by_role("navigation").get_by_role("button", name=f"<{second}>").wait_for()
    page.wait_for_function("document.activeElement.getAttribute('aria-current') == 'true'")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_in_both_themes(visit, theme, tmp_path):
    page = visit(viewport=PHONE, color_scheme=theme)
    search(page, "w5 w53")
    for name in ("Search", "Tree", "Compare", "Model"):
        open_tab(page, name)
        page.get_by_role("tab", name=name, selected=True).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than a phone"
        page.screenshot(path=tmp_path / f"{name}.png")
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(channels[:3]) / 3 < 128) == (theme == "dark")


def test_the_theme_of_a_link_counts(visit):
    page = visit("?__theme=dark", color_scheme="light")
    assert page.evaluate("document.body.classList.contains('dark')")


def test_every_field_has_a_name(visit):
    page = visit()
    page.get_by_role("button", name="Filters").click()
    for name in ("Search", "Tree", "Compare", "Model"):
        open_tab(page, name)
        page.get_by_role("tab", name=name, selected=True).wait_for()
        nameless = page.evaluate(
            """[...document.querySelectorAll("input, textarea, select, button")].filter(node => node.checkVisibility()
            && !node.labels?.length && !node.getAttribute("aria-label") && !node.getAttribute("aria-labelledby")
            && !node.title && !node.innerText.trim()).map(node => node.outerHTML)"""
        )
        assert nameless == []
