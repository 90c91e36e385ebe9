"""A tiny model folder as the page shows it, whose texts and labels are full of what must not become markup."""

from tiny_index import TEXTS, learned_index, names, write_folder

from modeling_lmindexer import DocumentTable

NASTY = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'> ${1+1} {{value}} **bold** `code`"


def write_page_folder(folder, documents=range(30)) -> None:
    """A model folder with a table of documents: two categories of `Shop`, one of them nasty."""
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, learned_index(documents))
    ids = names(documents)
    texts = [f"{TEXTS[i]} {NASTY if i % 10 == 0 else 'plain words'}" for i in documents]
    paths = [["Shop", "Hats" if i % 3 else f"Shoes {NASTY}"] for i in documents]
    DocumentTable(ids, texts, paths).save_pretrained(folder)
