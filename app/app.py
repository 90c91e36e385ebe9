"""A page for a model folder: search, the tree of IDs, two documents compared.

    python app/app.py outputs/python_docs
    python app/app.py org/lmindexer-beauty --port 8000

On a Space, the variable LMINDEXER_MODEL names the model.
"""

import argparse
import os
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if "SPACE_ID" in os.environ:  # its secret goes only where loaded_model.py sends it, also with requests of libraries
    os.environ.setdefault("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")

from loaded_model import CannotLoad, Shelf  # noqa: E402
from page import HERE, build, theme  # noqa: E402


def main() -> None:
    """Loads the model, if there is one, and serves the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=os.environ.get("LMINDEXER_MODEL", ""), help="folder or repository")
    parser.add_argument("--port", type=int, help="default: GRADIO_SERVER_PORT, or the first free one from 7860 on")
    arguments = parser.parse_args()
    shelf = Shelf()
    if arguments.model:
        try:
            shelf.keep(arguments.model)
        except CannotLoad as error:
            sys.exit(f"error: {error}")
    else:
        print("No model: give a folder or a Hub repository, or load one on the page.", file=sys.stderr)
    settings = {"server_port": arguments.port, "quiet": True, "prevent_thread_lock": True}
    page, (_, url, _) = launch(shelf, arguments.model, **settings)
    print(f"The page is at {url} (Ctrl+C ends it).", flush=True)
    page.block_thread()


def launch(shelf: Shelf, name: str, **settings):
    """Serves the page; `settings` are those of Gradio's `launch`, whose result is returned."""
    page = build(shelf, name)
    page.queue(default_concurrency_limit=2)
    return page, page.launch(
        theme=theme(), css_paths=HERE / "style.css", footer_links=[], ssr_mode=False, share=False, **settings
    )


if __name__ == "__main__":
    main()
