"""The scripts as a user runs them: a whole run on a tiny corpus, its folder, its search, and its errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import run_group
from transformers import AutoModel

from modeling_lmindexer import DocumentTable, PrefixTreeLogitsProcessor, SemanticIndex
from modeling_lmindexer.folder import MANIFEST_NAME, read_manifest, verify_files

ROOT = Path(__file__).parents[2]
WORDS = ("apple pear plum fig".split(), "bolt screw nail rivet".split(), "river lake sea pond".split())
TINY = [
    *("--codebook_sizes", "4", "4"), *("--vocab_size", "300"), *("--max_source_length", "16"), "--use_cpu",
    *("--continuous_epochs", "1"), *("--num_train_epochs", "1"), *("--reconstructor_epochs", "1"),
    *("--per_device_train_batch_size", "16"), *("--min_document_frequency", "1"), *("--max_document_frequency", "1"),
]  # fmt: skip


def run(script: str, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def write_corpus(path: Path, number: int = 48, **changes) -> Path:
    rows = []
    for i in range(number):
        kind = i % 3
        text = " ".join(WORDS[kind][(i // 3 + j * j) % 4] for j in range(6))
        rows.append(
            {"id": f"d{i:03d}", "text": text, "category": [f"kind{kind}"], "query": WORDS[kind][i % 4]} | changes
        )
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("run")
    corpus = write_corpus(base / "corpus.jsonl")
    output = run("run_indexing.py", "--train_file", str(corpus), "--query_column", "query",
                 "--output_dir", str(base / "out"), *TINY).stdout  # fmt: skip
    for expected in (
        "48 documents from corpus.jsonl",
        "TF-IDF + k-means",
        "queries find their document",
        "2-discrete",
    ):
        assert expected in output
    assert output.count("\n<") == 10  # sample documents with their IDs
    assert f"python examples/search.py {base / 'out'}" in output
    return base / "out"


@pytest.mark.slow
def test_the_folder_holds_what_the_readme_lists(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "stages" not in path.parts}
    assert names >= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "semantic_ids.parquet",
        "prefix_tree.safetensors", "metrics.json", "README.md", "manifest.json", "figures/losses.png",
        "figures/codes.png", "figures/categories.png", "modeling_lmindexer.py", "documents.parquet",
    }  # fmt: skip
    assert not [name for name in names if name.startswith(".") or name.endswith(".bin")]
    listed = read_manifest(folder / MANIFEST_NAME)["files"]
    assert listed.keys() == names - {MANIFEST_NAME, "figures"}
    verify_files([folder / name for name in listed], folder / MANIFEST_NAME)
    table = DocumentTable.from_pretrained(folder)
    assert len(table) == 48 and table.category_of("d004") == ("kind1",) and "screw" in table.text_of("d004")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["stages"].keys() == {"0-reconstructor", "1-continuous", "1-discrete", "2-continuous", "2-discrete"}
    assert metrics["queries"]["recall_at_10"] is not None


@pytest.mark.slow
def test_the_folder_loads_and_answers(folder):
    model, index = AutoModel.from_pretrained(folder).eval(), SemanticIndex.from_pretrained(folder)
    assert model.reconstructor is None
    assert sorted(index.document_ids) == [f"d{i:03d}" for i in range(48)]
    trie = PrefixTreeLogitsProcessor.from_pretrained(folder)
    model_inputs, tokenizer = index.load_model()[0], index.load_model()[1]
    query = tokenizer("apple pear", return_tensors="pt")
    ids = model.generate(query["input_ids"], num_beams=5, num_return_sequences=5, logits_processor=trie)
    found = index.documents_of(ids)
    assert all(found) and len({documents[0] for documents in found}) == 5
    assert model_inputs.assign(query["input_ids"]).tolist() == index.encode(["apple pear"]).tolist()


@pytest.mark.slow
def test_started_again_it_finds_everything_done(folder):
    before = (folder / "semantic_ids.parquet").read_bytes()
    corpus = folder.parent / "corpus.jsonl"
    again = run("run_indexing.py", "--train_file", str(corpus), "--query_column", "query", "--output_dir", str(folder),
                *TINY)  # fmt: skip
    assert "continuous:" not in again.stderr  # no stage was trained
    assert (folder / "semantic_ids.parquet").read_bytes() == before
    refused = run("run_indexing.py", "--train_file", str(corpus), "--output_dir", str(folder), *TINY,
                  "--learning_rate", "0.5", ok=False)  # fmt: skip
    for expected in ("another run's state", "learning_rate", "--start_over", "--go_on"):
        assert expected in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_search_takes_a_query_a_file_and_a_prompt(folder, tmp_path):
    queries = tmp_path / "queries.txt"
    queries.write_text("apple pear\nbolt screw\n")
    one = run("search.py", str(folder), "apple pear", "--top_k", "3").stdout
    assert one.count("<") == 9 and one.startswith("\napple pear\n")
    assert all(re.search(r">\s+\S+: \w+", line) for line in one.splitlines()[2:])  # with its text
    both = run("search.py", str(folder), "--queries", str(queries), "--top_k", "3").stdout
    assert both.startswith(one) and "\nbolt screw\n" in both
    missing = run("search.py", str(tmp_path / "nowhere"), "apple", ok=False)
    assert "nowhere" in missing.stderr and "Traceback" not in missing.stderr


@pytest.mark.slow
def test_settings_from_a_yaml_file_lose_to_the_command_line(tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"train_file: {corpus}\ncodebook_sizes: [1, 4]\noutput_dir: {tmp_path / 'out'}\n")
    refused = run("run_indexing.py", str(settings), "--use_cpu", ok=False)
    assert "a codebook of size 1" in refused.stderr and "Traceback" not in refused.stderr
    refused = run("run_indexing.py", str(settings), "--codebook_sizes", "64", "64", "--use_cpu", ok=False)
    assert "48 documents are fewer than the 64 codes" in refused.stderr and "codebook_sizes" in refused.stderr


@pytest.mark.slow
def test_a_file_that_is_not_there(tmp_path):
    refused = run("run_indexing.py", "--train_file", str(tmp_path / "no.jsonl"), ok=False)
    assert "no.jsonl" in refused.stderr and "Traceback" not in refused.stderr


def test_settings_that_cannot_be_are_named_in_one_line(run_script):
    assert "hint_ratios is [2.0]; give" in run_script("run_indexing", "--hint_ratios", 2, "--use_cpu", ok=False)


def test_settings_per_position_come_from_preset_file_and_command_line(tmp_path):
    from run_indexing import parse_arguments

    assert parse_arguments(["--preset", "best"])[2].code_choice == ["expectation", "expectation", "balanced"]
    file = tmp_path / "settings.yaml"
    file.write_text("preset: best\ncode_choice: balanced\nanchor_smoothing: 1\ncodebook_init: [ward, kmeans]\n")
    arguments = parse_arguments([str(file), "--codebook_init", "micro", "kmeans", "kmeans"])[2]
    assert (arguments.code_choice, arguments.anchor_smoothing) == (["balanced"], [1])
    assert arguments.codebook_init == ["micro", "kmeans", "kmeans"] and arguments.anchor_residuals
    with pytest.raises(SystemExit):
        parse_arguments(["--codebook_init", "median"])


@pytest.mark.slow
@pytest.mark.dist
def test_two_cpus_index_as_one_does(examples_folder, tmp_path):
    """Without `--use_cpu`, which a machine without an accelerator does not need."""
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    arguments = [name for name in TINY if name != "--use_cpu"]
    script = [str(examples_folder / "run_indexing.py"), "--train_file", str(corpus), *arguments]
    script += ["--optim", "sgd", "--global_batch_size", "16"]
    config = ["--config_file", str(examples_folder / "accelerate" / "two_cpus.yaml")]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *config]
    for name, command in (("two", launcher), ("one", [sys.executable])):
        folder = tmp_path / name
        run_group([*command, *script, "--output_dir", str(folder)], tmp_path / f"{name}.log", 240)
    two, one = (SemanticIndex.from_pretrained(tmp_path / name) for name in ("two", "one"))
    assert two.semantic_ids == one.semantic_ids and two.document_ids == one.document_ids
    settings = json.loads((tmp_path / "two/stages/settings.json").read_text())
    assert settings["global_batch_size"] == 16
    assert (tmp_path / "two.log").read_text().count("Model folder:") == 1
