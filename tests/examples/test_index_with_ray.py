"""`index_with_ray.py` writes the index that `index_documents.py` writes; skipped where there is no Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer

from modeling_lmindexer.folder import file_digest

pytest.importorskip("ray")
SCRIPT = Path(__file__).parents[2] / "examples" / "index_with_ray.py"


@pytest.mark.slow
def test_the_same_index(run_script, tmp_path):
    tiny_indexer().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = list(map(json.dumps, tiny_corpus(10).select_columns(["id", "text"])))
    for number in range(2):
        (tmp_path / f"s{number}.jsonl").write_text("\n".join(rows[number::2]))
    given = ["--model_name_or_path", tmp_path / "model", "--input_files", tmp_path / "s0.jsonl", tmp_path / "s1.jsonl"]
    run_script("index_documents", *given, "--output_dir", tmp_path / "plain")
    # A process of its own, whose path Ray gives to its workers.
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, SCRIPT, *given, "--output_dir", tmp_path / "ray", "--batch_size", 50]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "120 documents" in done.stdout, done.stderr
    for name in ("semantic_ids.parquet", "prefix_tree.safetensors"):
        assert file_digest(tmp_path / "ray" / name) == file_digest(tmp_path / "plain" / name)
