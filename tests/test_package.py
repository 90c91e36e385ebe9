"""The package as it is declared: dependencies, the README's code, what importing costs."""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT_NAMES = {
    "faiss-cpu": "faiss",
    "PyStemmer": "Stemmer",
    "huggingface-hub": "huggingface_hub",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
OURS = {"modeling_lmindexer", "trainers", "metrics", "data", "tests"}


def imported(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names)


def declared(*extras: str) -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    for extra in extras:
        lines += config["options.extras_require"][extra].split()
    packages = {re.split(r"[<>=]", line)[0] for line in lines}
    packages = {package.partition("[")[0] for package in packages}
    return {IMPORT_NAMES.get(package, package.replace("-", "_")) for package in packages}


def test_every_import_is_declared_and_every_dependency_imported():
    used = set().union(*(imported(ROOT / room) for room in ("modeling_lmindexer", "trainers", "metrics", "examples")))
    optional = declared("adapters", "liger", "metrics", "ray", "rivals") - declared()
    assert optional == {"evaluate", "liger_kernel", "peft", "ray", "vector_quantize_pytorch"} and optional <= used
    optional |= {"gradio"} & declared("app")  # of the metrics' Spaces
    assert used - OURS - optional == declared()
    of_benchmarks = declared("benchmarks") - declared()
    assert of_benchmarks == {"Stemmer", "bm25s", "sentence_transformers"} <= imported(ROOT / "benchmarks")


def test_every_import_of_the_tests_is_declared():
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").iterdir()]
    files += [path for room in ("examples", "app") for path in (ROOT / room).glob("*.py")]
    local = {path.stem for path in files}
    # Tests of what has an environment of its own skip where that is not the one they run in.
    pins = (ROOT / "benchmarks" / "requirements-rivals.txt").read_text().split("\n")
    elsewhere = {re.split(r"[=\[]", line)[0] for line in pins if "==" in line}
    with_others = {"gradio_client"}  # gradio installs the one that fits it
    assert imported(ROOT / "tests") - OURS - local - declared("test") - elsewhere - with_others == set()


def test_the_page_imports_what_a_space_installs():
    own = {path.stem for path in (ROOT / "app").glob("*.py")}
    lines = (ROOT / "app" / "requirements.txt").read_text(encoding="utf-8").split()
    assert [re.split("[<>=]", line)[0] for line in lines] == ["lmindexer", "gradio"]
    assert declared("app") - declared() == {"gradio"}
    assert imported(ROOT / "app") - OURS - own - declared("app") == set()


def test_the_model_imports_nothing_of_ours_but_itself():
    assert not imported(ROOT / "modeling_lmindexer") & (OURS - {"modeling_lmindexer"})
    for path in (ROOT / "modeling_lmindexer").glob("*.py"):
        assert "from __future__ import annotations" not in path.read_text(encoding="utf-8")


def readme_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_code_of_the_readme_runs(tmp_path):
    """On a tiny model folder in the place of the one that the main job writes."""
    sys.path.insert(0, str(ROOT / "tests" / "examples"))
    from test_run_indexing import TINY, run, write_corpus

    corpus = write_corpus(tmp_path / "corpus.jsonl")
    run("run_indexing.py", "--train_file", str(corpus), "--output_dir", str(tmp_path / "outputs/python_docs"), *TINY)
    code = "\n".join(readme_blocks())
    assert "AutoModel.from_pretrained(folder)" in code and "logits_processor=trie" in code
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[['d")
