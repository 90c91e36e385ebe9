"""`generate_queries.py` as a user runs it: both sources, a model and none, a stop, two processes, and its errors."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from tiny_training import tiny_corpus, tiny_indexer, tiny_query_model, tiny_tokenizer

TINY = ["--num_queries", 4, "--max_new_tokens", 5, "--use_cpu"]
NUMBER = 300  # two parts


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Documents as a file and as a BEIR folder, and a model that turns them into queries."""
    folder = tmp_path_factory.mktemp("data")
    texts = tiny_corpus(25)["text"][:]
    rows = [{"id": i, "title": f"title{i}", "description": texts[i]} for i in range(NUMBER)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "beir").mkdir()
    documents = [{"_id": f"{i}", "title": f"title{i}", "text": texts[i]} for i in range(NUMBER)]
    (folder / "beir" / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "beir" / "queries.jsonl").write_text('{"_id": "q", "text": "w"}')
    tiny_query_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    return folder


@pytest.fixture
def run(run_script):
    return partial(run_script, "generate_queries")


def drawing(base: Path, out: Path, *more) -> list:
    return ["--model_name_or_path", base / "model", "--beir_dir", base / "beir", "--output_dir", out, *TINY, *more]


def item_texts(base: Path) -> list[str]:
    rows = map(json.loads, (base / "items.jsonl").read_text().splitlines())
    return [f"{row['title']} {row['description']}" for row in rows]


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "queries.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A run that nothing stopped: its folder and what it printed."""
    import generate_queries

    out, printed = tmp_path_factory.mktemp("whole"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["generate_queries.py", *map(str, drawing(base, out))])
        generate_queries.main()
    return out, printed.getvalue()


def launch(arguments: list) -> list[str]:
    """What each of two processes printed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parents[2] / "examples" / "generate_queries.py"
    environment = os.environ | {"PYTHONPATH": str(script.parents[1]), "ACCELERATE_USE_CPU": "true"}
    environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        found = [worker.communicate(timeout=240) for worker in workers]
    finally:  # the other one too, where it waits for the first
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], found
    return [printed for printed, _ in found]


def test_queries_of_a_model(base, whole, run, tmp_path):
    """Of every document in the order of the corpus, the same for another batch size and from another file."""
    out, printed = whole
    rows = rows_of(out)
    assert f"{len(rows):,} queries of 300 documents" in printed and str(out / "queries.jsonl") in printed
    ids = [int(row["document_id"]) for row in rows]
    assert ids == sorted(ids) and len(set(ids)) > 290 and len(rows) > 900
    assert len({(row["document_id"], row["text"].lower()) for row in rows}) == len(rows)
    dropped = [int(part.split()[0]) for part in printed.split("; ")[1].split(" and ")]
    assert sum(dropped) == 4 * NUMBER - len(rows) and dropped[0] > 0
    run(
        "--model_name_or_path", base / "model", "--train_file", base / "items.jsonl", "--output_dir", tmp_path, *TINY,
        "--batch_size", 7,
    )  # fmt: skip
    assert [row | {"document_id": str(row["document_id"])} for row in rows_of(tmp_path)] == rows
    assert isinstance(rows_of(tmp_path)[0]["document_id"], int)


def test_a_stopped_run_goes_on(base, whole, run, tmp_path, monkeypatch):
    from trainers.query_generation import QueryGenerator

    draw, done = QueryGenerator.draw, []

    def killed(self, ids, tokens):
        if len(done) == 17:  # 16 batches are a part
            raise KeyboardInterrupt
        done.append(list(ids))
        return draw(self, ids, tokens)

    monkeypatch.setattr(QueryGenerator, "draw", killed)
    monkeypatch.setattr(sys, "argv", ["generate_queries.py", *map(str, drawing(base, tmp_path))])
    import generate_queries

    with pytest.raises(KeyboardInterrupt):
        generate_queries.main()
    assert not (tmp_path / "queries.jsonl").exists() and len(list((tmp_path / "stages" / "parts").iterdir())) == 1
    monkeypatch.setattr(QueryGenerator, "draw", lambda self, ids, tokens: done.append(ids) or draw(self, ids, tokens))
    done.clear()
    assert run(*drawing(base, tmp_path)).replace(str(tmp_path), str(whole[0])) == whole[1]
    assert sum(map(len, done)) == 300 - 256
    assert rows_of(tmp_path) == rows_of(whole[0])

    message = run(*drawing(base, tmp_path, "--top_p", 0.5), ok=False)
    assert "top_p: 1.0 there, 0.5 now" in message and "--start_over" in message
    assert rows_of(tmp_path) == rows_of(whole[0])
    run(*drawing(base, tmp_path, "--top_p", 0.5, "--start_over"))
    assert rows_of(tmp_path) != rows_of(whole[0])


@pytest.mark.dist
def test_two_processes_write_what_one_does(base, whole, tmp_path):
    printed = launch(drawing(base, tmp_path))
    assert printed[0].replace(str(tmp_path), str(whole[0])) == whole[1] and printed[1] == ""
    assert (tmp_path / "queries.jsonl").read_bytes() == (whole[0] / "queries.jsonl").read_bytes()


def test_queries_without_a_model(base, run, tmp_path):
    arguments = ["--method", "titles", "key_phrases", "--num_queries", 3, "--use_cpu"]
    for source in (["--train_file", base / "items.jsonl"], ["--beir_dir", base / "beir"]):
        printed = run(*source, *arguments, "--output_dir", tmp_path, "--start_over")
        rows = rows_of(tmp_path)
        assert "900 queries of 300 documents, 0 of which have none" in printed
        assert [row["text"] for row in rows[::3]] == [f"title{i}" for i in range(NUMBER)]
        assert int(rows[-1]["document_id"]) == NUMBER - 1 and rows[-1]["text"] in item_texts(base)[-1]
    refused = run("--beir_dir", base / "beir", *arguments, "--output_dir", tmp_path, "--num_queries", 2, ok=False)
    assert "num_queries: 3 there, 2 now" in refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "titles", "--model_name_or_path", "m"], "Give either --model_name_or_path or --method"),
        ([], "Give either --model_name_or_path or --method"),
        (["--method", "rhymes"], "--method rhymes is none; there are titles, leading_sentences, key_phrases"),
        (["--method", "titles", "--train_file", "a.csv"], "Give one source of documents"),
        (["--model_name_or_path", "{base}/encoder"], "is a bert; expected an encoder-decoder that writes text"),
        (["--model_name_or_path", "{base}/indexer"], "is a lmindexer; expected an encoder-decoder"),
        (["--method", "titles", "--start_over", "--go_on"], "exclude each other"),
        (["--method", "titles", "--top_p", "0"], "top_p 0.0"),
    ],
)
def test_what_cannot_be_done(base, run, tmp_path, arguments, message):
    indexer = tiny_indexer("bert")
    indexer.config.backbone_config.save_pretrained(base / "encoder")
    indexer.config.save_pretrained(base / "indexer")
    arguments = [argument.format(base=base) for argument in arguments]
    given = ["--beir_dir", base / "beir", "--output_dir", tmp_path / "out", "--use_cpu", *arguments]
    assert message in run(*given, ok=False)
    assert not (tmp_path / "out").exists()
