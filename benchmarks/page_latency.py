"""How long a search on the page takes: in the app, through Gradio, and until a browser shows it.

    python benchmarks/page_latency.py outputs/python_docs
    python benchmarks/page_latency.py outputs/python_docs --pictures docs/images

Queries are the first eight words of documents drawn at random. With `--pictures` it also takes the pictures of the
guide. The browser is a Chromium on this machine.
"""

import argparse
import io
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gradio_client import Client
from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "app"))
from beam_path import path_html  # noqa: E402
from finding import find, found_html  # noqa: E402
from loaded_model import LoadedModel, Shelf  # noqa: E402

from app import launch  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = {"width": 1240, "height": 860}, {"width": 390, "height": 844}
# The time from the key that submits until other documents are in the page.
STOPWATCH = """() => {
  const begin = (event) => { if (event.key === "Enter") window.began = performance.now(); };
  document.addEventListener("keydown", begin, true);
  new MutationObserver(() => {
    const list = document.querySelector("#lm-found .lm-found");
    if (!list || list.dataset.old) return;
    list.dataset.old = 1;
    window.took = performance.now() - window.began;
  }).observe(document.querySelector("#lm-found"), { childList: true, subtree: true });
}"""


def main() -> None:
    """Serves the page, measures, prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder with a table of documents")
    parser.add_argument("--searches", type=int, default=100, help="of each kind, after five to warm up")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the page")
    arguments = parser.parse_args()
    shelf = Shelf()
    loaded = shelf.keep(arguments.model)
    queries = drawn_queries(loaded, arguments.searches + 5)
    served, (_, address, _) = launch(shelf, arguments.model, prevent_thread_lock=True, quiet=True)
    try:
        with browser_page(address, DESKTOP) as page:
            page.evaluate(STOPWATCH)
            rows = {
                "search in the app": [timed(lambda: answer(loaded, query)) for query in queries],  # noqa: B023
                "through Gradio's client": through_client(address, queries),
                "in the browser": [in_browser(page, query) for query in queries],
            }
        if arguments.pictures:
            take_pictures(address, arguments.pictures)
    finally:
        served.close(verbose=False)
    print("| a search | median, ms | 95th percentile, ms |\n|---|---|---|")
    for name, seconds in rows.items():
        warm = [1000 * value for value in seconds[5:]]
        print(f"| {name} | {statistics.median(warm):.0f} | {statistics.quantiles(warm, n=20)[-1]:.0f} |")


def drawn_queries(loaded: LoadedModel, number: int) -> list[str]:
    """First words of documents, always the same."""
    draw = random.Random(0)
    return [" ".join(loaded.text_of(draw.choice(loaded.index.document_ids)).split()[:8]) for _ in range(number)]


def answer(loaded: LoadedModel, query: str) -> tuple[str, str]:
    """What the server does for a search."""
    found, path = find(loaded, query)
    return found_html(loaded, found), path_html(path)


def timed(work: Callable) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def through_client(address: str, queries: list[str]) -> list[float]:
    """Seconds of each search by Gradio's Python client."""
    client = Client(address, verbose=False)
    return [timed(lambda: client.predict(query, 10, [], "", api_name="/search")) for query in queries]  # noqa: B023


@contextmanager
def browser_page(address: str, viewport: dict, **settings) -> Iterator[Page]:
    """A page of a fresh browser."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        sys.exit("error: there is no Chromium; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=viewport, **settings)
        page.goto(address)
        page.get_by_role("textbox", name="Query").wait_for()
        yield page
        browser.close()


def in_browser(page: Page, query: str) -> float:
    """Seconds from Enter until the documents are in the page."""
    field = page.get_by_role("textbox", name="Query")
    field.fill(query)
    page.evaluate("window.took = null")
    field.press("Enter")
    return page.wait_for_function("window.took").json_value() / 1000


def take_pictures(address: str, folder: Path) -> None:
    """`page_search.png` and so on."""
    query = "?query=run+a+coroutine+in+the+event+loop"
    folder.mkdir(parents=True, exist_ok=True)
    with browser_page(address + query, DESKTOP, color_scheme="light") as page:
        page.locator(".lm-card").first.wait_for()
        keep(page, folder / "page_search.png")
        page.get_by_role("tab", name="Tree").click()
        page.locator(".lm-tile").first.wait_for()
        keep(page, folder / "page_explorer.png")
        page.get_by_role("tab", name="Compare").click()
        page.get_by_label("First document").fill("asyncio.base_events.BaseEventLoop.close")
        page.get_by_label("Second document").fill("asyncio.runners.run")
        page.get_by_label("Second document").press("Enter")
        page.locator(".lm-pair").wait_for()
        keep(page, folder / "page_compare.png")
    with browser_page(address + query, PHONE, color_scheme="light") as page:
        page.locator(".lm-card").first.wait_for()
        keep(page, folder / "page_phone.png")
    with browser_page(address, DESKTOP, color_scheme="dark") as page:
        page.get_by_role("tab", name="Tree").click()
        page.locator(".lm-tile").first.wait_for()
        keep(page, folder / "page_dark.png")


def keep(page: Page, path: Path) -> None:
    """A picture of what is in the window."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement?.blur()")
    picture = page.screenshot(animations="disabled", caret="hide")
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main()
