"""`index_with_ray.py` writes the index that `index_documents.py` writes; skipped where there is no Ray."""

import json

import pytest
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer

from modeling_lmindexer.folder import file_digest

ray = pytest.importorskip("ray")


@pytest.mark.slow
def test_the_same_index(run_script, tmp_path):
    tiny_indexer().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = list(map(json.dumps, tiny_corpus(10).select_columns(["id", "text"])))
    for number in range(2):
        (tmp_path / f"s{number}.jsonl").write_text("\n".join(rows[number::2]))
    given = ["--model_name_or_path", tmp_path / "model", "--input_files", tmp_path / "s0.jsonl", tmp_path / "s1.jsonl"]
    run_script("index_documents", *given, "--output_dir", tmp_path / "plain")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    try:
        printed = run_script("index_with_ray", *given, "--output_dir", tmp_path / "ray", "--batch_size", 50)
    finally:
        ray.shutdown()
    assert "120 documents" in printed
    for name in ("semantic_ids.parquet", "prefix_tree.safetensors"):
        assert file_digest(tmp_path / "ray" / name) == file_digest(tmp_path / "plain" / name)
