"""`run_retrieval.py` as a user runs it: both kinds of data, both kinds of start, what it leaves, and its errors."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoTokenizer

from metrics.ranking_quality import ranking_figures, read_qrels, read_run
from modeling_lmindexer import DocumentVectors, SemanticIndex
from modeling_lmindexer.folder import read_manifest, verify_files

WORDS = ("apple pear plum fig".split(), "bolt screw nail rivet".split(), "river lake sea pond".split())
TINY = [
    *("--num_train_epochs", 2), *("--per_device_train_batch_size", 16), *("--num_beams", 8), *("--cutoffs", 1, 5),
    *("--metric_for_best_model", "ndcg@5"), "--use_cpu", *("--report_to", "none"), *("--vocab_size", 300),
    *("--max_source_length", 16), *("--learning_rate", 0.01),
]  # fmt: skip
NUMBER = 24


def item_text(i: int) -> str:
    return " ".join(WORDS[i % 3][(i // 3 + j * j) % 4] for j in range(5)) + f" {i}"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Items and histories, a BEIR folder of the same documents, and an index."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"id": i, "title": item_text(i)} for i in range(NUMBER)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    random = np.random.default_rng(0)
    lines = [f"u{user} {' '.join(map(str, random.permutation(NUMBER)[:6]))}" for user in range(20)]
    (folder / "sequences.txt").write_text("\n".join(lines))
    beir = folder / "beir"
    (beir / "qrels").mkdir(parents=True)
    documents = [{"_id": str(i), "title": "", "text": item_text(i)} for i in range(NUMBER)]
    (beir / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    queries = [{"_id": f"q{i}", "text": " ".join(item_text(i % NUMBER).split()[-2:])} for i in range(2 * NUMBER)]
    (beir / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for split, numbers in (("train", range(32)), ("test", range(32, 40)), ("test_unseen", range(40, 48))):
        judged = [f"q{i}\t{i % NUMBER}\t{1 + i % 2}" for i in numbers]
        (beir / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    codes = random.integers(0, 5, size=(NUMBER, 2))
    for name, ids in (("index", list(range(NUMBER))), ("text index", [str(i) for i in range(NUMBER)])):
        (folder / name).mkdir()
        SemanticIndex.from_codes(ids, codes, [5, 5, 6]).save_pretrained(folder / name)
    return folder


def recommendation(base: Path, out: Path, *more) -> list:
    files = ["--items_file", base / "items.jsonl", "--sequences_file", base / "sequences.txt"]
    return ["--task", "recommendation", *files, "--output_dir", out, *TINY, *more]


@pytest.fixture(scope="module")
def recommender(base, tmp_path_factory):
    """Arguments and the folder of a run that reads IDs and text, done once by the first test that needs it."""
    out = tmp_path_factory.mktemp("out") / "rec"
    return recommendation(base, out, "--index", base / "index", "--document_epochs", 1, "--max_query_length", 16), out


@pytest.mark.slow
def test_recommendation_from_nothing(base, recommender, run_script):
    """The folder answers as the run file says; started again, nothing is trained."""
    arguments, out = recommender
    printed = run_script("run_retrieval", *arguments)
    assert "24 documents, 60 training pairs, 20 validation and 20 test queries" in printed
    assert "100.0% of the test queries fill max_query_length, 16 tokens; longer ones are cut." in printed
    assert "| test  | 20      |" in printed
    run, metrics = read_run(out / "run.test.trec"), json.loads((out / "metrics.json").read_text())
    histories = {line.split()[0]: line.split()[1:] for line in (base / "sequences.txt").read_text().splitlines()}
    assert set(run) == set(histories)
    for user, documents in run.items():
        assert len(documents) == 8 and set(documents).isdisjoint(histories[user][:-1])
    qrels = {user: {items[-1]: 1} for user, items in histories.items()}
    assert ranking_figures(run, qrels, ["recall@5"]).means()["recall@5"] == metrics["test"]["figures"]["recall@5"]
    low, high = metrics["test"]["intervals"]["ndcg@5"]
    assert low <= metrics["test"]["figures"]["ndcg@5"] <= high
    assert set(metrics["stages"]) == {"warm-start", "task"} and len(metrics["stages"]["task"]["evaluations"]) == 2
    manifest = read_manifest(out / "manifest.json")["files"]
    verify_files([out / name for name in manifest], out / "manifest.json")
    assert "run.test.trec" in manifest and "README.md" in manifest
    card = ModelCard.load(out / "README.md")
    reported = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert reported["recall@5"] == round(metrics["test"]["figures"]["recall@5"], 4)

    model, tokenizer = AutoModel.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    index = SemanticIndex.from_pretrained(out)
    names = dict(zip(index.document_ids, index.codes.tolist(), strict=True))
    newest = [int(item) for item in histories["u0"][:-1]][::-1]
    parts = ["".join(f"<p_{'_'.join(map(str, names[item][:p]))}>" for p in (1, 2, 3)) for item in newest]
    text = " ".join(f"{part} {item_text(item)}" for part, item in zip(parts, newest, strict=True))
    assert f"{text}\n  -> {run['u0'][0]}: {item_text(int(run['u0'][0]))}" in card.text
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
    with torch.inference_mode():
        found = model.search(
            index=index, num_beams=8, top_k=8, allowed=[i for i in range(NUMBER) if i not in newest],
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
        )  # fmt: skip
    assert list(map(str, found.documents[0])) == run["u0"]

    weights = (out / "model.safetensors").read_bytes()
    assert run_script("run_retrieval", *arguments) == printed
    assert (out / "model.safetensors").read_bytes() == weights and read_run(out / "run.test.trec") == run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prefixes", "codes"])
def test_the_code_of_the_card_recommends(base, run_script, tmp_path, capsys, kind):
    arguments = recommendation(base, tmp_path / "out", "--index", base / "index", "--history", "ids")
    more = ["--code_per_prefix"] if kind == "prefixes" else []
    run_script("run_retrieval", *arguments, "--num_train_epochs", 1, "--id_tokens", kind, *more)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert f"a token per {kind.removesuffix('es').removesuffix('s')}" in card.text
    exec(compile(card.text.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
    found = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
    assert len(found) == 8 and {document for row in found for document in row} <= set(range(NUMBER))


@pytest.mark.slow
def test_retrieval_from_a_recommender(base, recommender, run_script, tmp_path):
    """An indexer's folder as the start; every test split has its run; some training queries are for validation."""
    _, start = recommender
    printed = run_script(
        "run_retrieval", "--task", "retrieval", "--beir_dir", base / "beir", "--model_name_or_path", start,
        "--index", base / "text index", "--output_dir", tmp_path, "--document_share", 0.25, "--lora_rank", 4, *TINY,
    )  # fmt: skip
    trained, before = (AutoModel.from_pretrained(folder).state_dict() for folder in (tmp_path, start))
    assert trained.keys() == before.keys(), "adapters are merged"
    assert any(not torch.equal(value, before[name]) for name, value in trained.items())
    assert "24 documents, 28 training pairs, 4 validation and 8 test, 8 test_unseen queries" in printed
    for split in ("test", "test_unseen"):
        run = read_run(tmp_path / f"run.{split}.trec")
        assert set(run) == set(read_qrels(base / "beir" / "qrels" / f"{split}.tsv"))
        assert {len(documents) for documents in run.values()} == {8}


@pytest.mark.slow
def test_new_documents_and_rescoring(base, run_script, tmp_path):
    """Documents of a file are found after training by the IDs of the index; searched again, the folder's vectors
    give the same ranking."""
    new = [str(i) for i in range(NUMBER) if i % 3 == 1]
    (tmp_path / "new.txt").write_text("\n".join(new))
    shutil.copytree(base / "beir", tmp_path / "beir")
    (tmp_path / "beir" / "qrels" / "test_unseen.tsv").unlink()
    out = tmp_path / "out"
    printed = run_script(
        "run_retrieval", "--task", "retrieval", "--beir_dir", tmp_path / "beir", "--index", base / "text index",
        "--new_documents_file", tmp_path / "new.txt", "--rescoring_weight", 2.5, "--output_dir", out, *TINY,
    )  # fmt: skip
    assert "24 documents, 20 training pairs, without 8 of new documents, 1 validation and 8 test queries" in printed
    assert "SemanticIndex(16 documents" in printed
    before, after = (SemanticIndex.from_pretrained(folder) for folder in (base / "text index", out))
    assert dict(zip(after.document_ids, after.semantic_ids, strict=True)) == dict(
        zip(before.document_ids, before.semantic_ids, strict=True)
    )
    runs = {split: read_run(out / f"run.{split}.trec") for split in ("test", "test_seen", "test_unseen")}
    judged = read_qrels(base / "beir" / "qrels" / "test.tsv")
    assert set(runs["test_unseen"]) == {query for query, own in judged.items() if set(own) <= set(new)}
    assert runs["test"] == runs["test_seen"] | runs["test_unseen"]
    found = {document for row in runs["test_seen"].values() for document in row}
    assert found & set(new), "they are in the way of the others, too"
    assert all(f"| {split}" in printed for split in ("validation", "test_seen", "test_unseen"))

    model, tokenizer = AutoModel.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    vectors = DocumentVectors.from_pretrained(out, after)
    assert vectors.weight == 2.5 and "document_vectors.safetensors" in read_manifest(out / "manifest.json")["files"]
    for query, documents in runs["test"].items():
        inputs = tokenizer(" ".join(item_text(int(query[1:]) % NUMBER).split()[-2:]), return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        found = model.search(**inputs, index=after, num_beams=8, top_k=8, rescoring=vectors)
        assert found.documents == [documents]
    plain = model.search(**inputs, index=after, num_beams=8, top_k=8)
    assert sorted(plain.documents[0]) == sorted(documents) and not torch.equal(plain.scores, found.scores)
    text = " ".join(item_text(int(query[1:]) % NUMBER).split()[-2:])
    answer = run_script("search", out, text, "--num_beams", 8, "--top_k", 8)
    assert [line.split()[-1] for line in answer.splitlines()[2:]] == documents


def searching(folder: Path, base: Path, out: Path, *more) -> list:
    given = ["--task", "search", "--beir_dir", folder, "--index", base / "text index", "--output_dir", out]
    return [*given, *TINY, "--max_steps", 2, *more]


@pytest.fixture
def pseudo_queries(tmp_path) -> Path:
    """Two queries of every document, one of them its neighbour's too."""
    rows = [{"document_id": str(i), "text": text} for i in range(NUMBER) for text in (f"own {i}", f"both {i // 2}")]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "queries.jsonl"


@pytest.mark.slow
def test_pseudo_queries_are_learned_from_too(base, pseudo_queries, run_script, tmp_path):
    """Beside judged ones, of which some are for validation; and alone, where some of them are."""
    given = ["--queries_file", pseudo_queries]
    printed = run_script("run_retrieval", *searching(base / "beir", base, tmp_path / "out", *given))
    assert (
        "24 documents, 76 training pairs (28 of judged queries, 48 of pseudo queries for 24 documents, of which "
        in printed
        and "4 validation and 8 test, 8 test_unseen queries" in printed
    )
    shutil.copytree(base / "beir", tmp_path / "beir")
    (tmp_path / "beir" / "qrels" / "train.tsv").unlink()
    given += ["--rescoring_weight", 1]  # by which the pseudo queries that are for validation are written, too
    printed = run_script("run_retrieval", *searching(tmp_path / "beir", base, tmp_path / "alone", *given))
    # 36 texts, an eighth of which, 4, are for validation: with one document or two.
    pairs = int(printed.split("documents, ")[1].split()[0])
    assert 40 <= pairs <= 44 and f"{pairs} training pairs (0 of judged queries, {pairs} of pseudo" in printed
    assert " 4 validation and 8 test, 8 test_unseen queries" in printed
    assert len(read_run(tmp_path / "alone" / "run.test.trec")) == 8


def test_pseudo_queries_of_other_documents(base, pseudo_queries, run_script, tmp_path):
    with open(pseudo_queries, "a") as file:
        file.write('\n{"document_id": "99", "text": "x"}')
    arguments = searching(base / "beir", base, tmp_path / "out", "--queries_file", pseudo_queries)
    message = run_script("run_retrieval", *arguments, ok=False)
    assert "queries.jsonl, row 49: document '99' is not in" in message
    arguments = [*recommendation(base, tmp_path / "out"), "--queries_file", pseudo_queries]
    assert "--queries_file is for --task search and retrieval" in run_script("run_retrieval", *arguments, ok=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--sequences_file", "none.txt"], "sequences_file='none.txt' is not a file"),
        (["--task", "retrieval"], "--task retrieval needs --beir_dir"),
        (["--cutoffs", 1, 99], "cutoffs is [1, 99]; give whole numbers from 1 to num_beams, 8"),
    ],
)
def test_what_is_missing(base, tmp_path, run_script, changes, message):
    arguments = [*recommendation(base, tmp_path / "OUT", "--index", base / "index"), *changes]
    assert message in run_script("run_retrieval", *arguments, ok=False)


@pytest.mark.slow
def test_a_code_per_prefix(base, tmp_path, run_script):
    """The folder is as any other: the same tree as that of the IDs, and weights that nothing else is needed for."""
    out = tmp_path / "OUT"
    arguments = recommendation(base, out, "--index", base / "index", "--history", "ids", "--code_per_prefix")
    printed = run_script("run_retrieval", *arguments)
    given, index = SemanticIndex.from_pretrained(base / "index"), SemanticIndex.from_pretrained(out)
    assert index.position_sizes[-1] == NUMBER and f"x {NUMBER} codes)" in printed
    assert len({tuple(row[:2]) for row in given.codes.tolist()}) == index.position_sizes[1]
    model = AutoModel.from_pretrained(out)
    assert not any("parametrizations" in name for name in model.state_dict())
    codes, tokens = model.codebooks.learned[0].weight, model.get_input_embeddings().weight
    assert codes.norm() > 0 and len(tokens) > sum(index.position_sizes)
    run, weights = read_run(out / "run.test.trec"), (out / "model.safetensors").read_bytes()
    assert run_script("run_retrieval", *arguments) == printed, "nothing is trained again"
    assert (out / "model.safetensors").read_bytes() == weights and read_run(out / "run.test.trec") == run
    assert "has learned codes. Give its folder as --index instead" in run_script(
        "run_retrieval", *arguments, "--model_name_or_path", out, ok=False
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--history", "text"], "--code_per_prefix is for recommendation that reads prefixes"),
        (["--id_tokens", "codes"], "give --history ids or both, --id_tokens prefixes"),
        (["--hold_out_documents", 0.1], "--code_per_prefix leaves no codes for documents that come later"),
    ],
)
def test_a_code_per_prefix_is_for_ids_that_are_read(base, tmp_path, run_script, changes, message):
    arguments = recommendation(base, tmp_path / "OUT", "--index", base / "index", "--code_per_prefix")
    assert message in run_script("run_retrieval", *arguments, *changes, ok=False)


def test_rescoring_needs_texts_and_a_weight(base, tmp_path, run_script):
    arguments = recommendation(base, tmp_path / "OUT", "--index", base / "index")
    assert "is -1.0; expected a number of at least 0" in run_script(
        "run_retrieval", *arguments, "--rescoring_weight", -1, ok=False
    )
    shorter = tmp_path / "items.jsonl"
    shorter.write_text("".join((base / "items.jsonl").read_text().splitlines(keepends=True)[:20]))
    assert "4 have none, such as 20" in run_script(
        "run_retrieval", *arguments, "--items_file", shorter, "--skip_missing", "--rescoring_weight", 1, ok=False
    )


def test_no_ids(base, tmp_path, run_script):
    assert "There are no IDs: give an indexer's folder" in run_script(
        "run_retrieval", *recommendation(base, tmp_path), ok=False
    )
    from_nothing = recommendation(base, tmp_path, "--index", base / "index")
    for option in (["--lora_rank", 4], ["--freeze_encoder"]):
        printed = run_script("run_retrieval", *from_nothing, *option, ok=False)
        assert f"{option[0]} is for a pretrained model that learns no new tokens" in printed
    arguments = ["--task", "recommendation", "--output_dir", tmp_path, *TINY, "--index", base / "index"]
    assert "needs --items_file and --sequences_file" in run_script("run_retrieval", *arguments, ok=False)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("qrels/test.tsv", "q1\t99\t1\n", "query q1 has document 99, which is not in corpus.jsonl"),
        ("qrels/train.tsv", "q99\t1\t1\n", "query q99 is not in queries.jsonl"),
        ("qrels/test.tsv", "q1\t1\tyes\nq1\t1\tno\n", "line 2: 'q1 1 no'; expected"),
        (
            "corpus.jsonl",
            '{"_id": "1", "text": "a"}\n{"_id": "1", "text": "b"}',
            "row 2 has no `_id`, that of another row",
        ),
        ("queries.jsonl", '{"text": "a"}', "row 1 has no `_id`"),
        ("queries.jsonl", '{"_id": null, "text": "a"}', "row 1 has no `_id`"),
        ("corpus.jsonl", '{"_id": "a b", "text": "a"}', "or one with white space, which a run file cannot hold"),
        ("corpus.jsonl", '{"_id": "7", "text": " "}', "1 documents have no text, such as ['7']"),
        ("queries.jsonl", '{"_id": "q0", "text": ""}', "train.tsv: query q0 has no text in queries.jsonl"),
        ("qrels/test.tsv", "q1\t1\t0\n", "test.tsv: no query has a document with a gain above 0"),
        ("queries.jsonl", None, "beir has no queries.jsonl"),
        ("qrels/train.tsv", None, "expected train.tsv, or a --queries_file, and test.tsv"),
    ],
)
def test_broken_folders(base, tmp_path, run_script, file, text, message):
    shutil.copytree(base / "beir", tmp_path / "beir")
    if text is None:
        (tmp_path / "beir" / file).unlink()
    else:
        (tmp_path / "beir" / file).write_text(text)
    assert message in run_script(
        "run_retrieval", "--task", "retrieval", "--beir_dir", tmp_path / "beir", "--index", base / "text index",
        "--output_dir", tmp_path / "out", *TINY, ok=False,
    )  # fmt: skip
