"""Every code block of README and guides: commands that exist with options that they take, data that loads.

Blocks of Python are run by test_guides.py and test_package.py, whole commands by tests/long/code_blocks.py.
"""

import json
import sys
from pathlib import Path

import pytest
import yaml
from command_lines import Refused, check
from markdown_blocks import CODE, SHELL, Block, blocks_of, commands, pages

BLOCKS = [block for page in pages() for block in blocks_of(page)]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in SHELL], ids=str)
def test_every_command_would_start(block):
    found = commands(block.text)
    assert found
    for command in found:
        check(command)


def test_every_block_of_data_loads():
    for block in BLOCKS:
        if block.language == "yaml":
            assert yaml.safe_load(block.text), block
        elif block.language == "json":
            assert json.loads(block.text), block


def test_what_is_no_code_says_so():
    """Commands in a block without a language would never be looked at."""
    unknown = [f"{block} {block.language}" for block in BLOCKS if block.language not in (*CODE, "text", "csv")]
    assert not unknown, "say bash, text, ..."


def test_a_reason_is_given_in_words():
    assert all(len(block.reason.split()) > 2 for block in BLOCKS if block.reason)
    assert not [block for block in BLOCKS if block.reason and block.language not in SHELL], "only for commands"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python examples/run_everything.py", "is not there"),
        ("python examples/search.py", "the following arguments are required: model"),
        ("python examples/run_indexing.py --learning_rates_of 3", "--learning_rates_of"),
        ("accelerate launch examples/run_retrieval.py --task juggling --output_dir x", "juggling"),
        ("accelerate launch --config_file examples/accelerate/none.yaml examples/run_indexing.py", "none.yaml"),
        ("torchrun --nproc_per_node 2 examples/index_documents.py --model_name_or_path x", "required"),
        ('pip install -e ".[everything]"', "no extra everything"),
        ("pip install -r wishes.txt", "wishes.txt"),
        ("frobnicate --fast", "frobnicate"),
    ],
)
def test_a_command_that_would_fail_is_found(command, words):
    with pytest.raises(Refused, match=words):
        check(commands(command)[0])


def test_commands_of_a_block():
    text = "export A=1  # of course\npython x.py --a \\\n    'b c' && B=2 pip install -e '.[test]' > log; ls\n"
    assert commands(text) == [
        ["export", "A=1"], ["python", "x.py", "--a", "b c"], ["pip", "install", "-e", ".[test]"], ["ls"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="plain commands"):
        commands("for i in 1 2; do echo $i; done")


def test_blocks_of_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr("markdown_blocks.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- not run: it takes a week -->\n```bash\nls\n```\n\n```python\n>>> 1\n1\n\n```\n")
    assert blocks_of(page) == [
        Block("page.md", 4, "bash", "ls\n", "it takes a week"), Block("page.md", 8, "python", ">>> 1\n1\n\n", ""),
    ]  # fmt: skip


PAGE = """```bash
mkdir made && cd made
python -c "open('there', 'w')"
```

```python
>>> from pathlib import Path
>>> number = len(list(Path("made").iterdir()))

```

<!-- not run: for want of a moon -->
```bash
ls moon
```

```python
>>> number
2

```

```bash
ls moon
```
"""


def test_the_long_check_says_what_failed(tmp_path, monkeypatch, capsys):
    """Blocks share a folder and a session, and one that fails keeps no other from running."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "long")
    import code_blocks

    for module in (code_blocks, sys.modules["markdown_blocks"]):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    ends = code_blocks.run_page(page, tmp_path / "folder", minutes=1)
    assert ends == {"ran bash": 1, "ran python": 1, "not run bash": 1, "failed python": 1, "failed bash": 1}
    words = capsys.readouterr().out
    assert "Expected:\n    2\nGot:\n    1" in words and "for want of a moon" in words and "exit 2" in words


@pytest.mark.parametrize(("language", "text"), [("bash", "sleep 60"), ("python", "import time; time.sleep(60)")])
def test_the_long_check_stops_what_does_not_end(tmp_path, monkeypatch, capsys, language, text):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "long")
    import code_blocks

    for module in (code_blocks, sys.modules["markdown_blocks"]):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"```{language}\n{text}\n```\n\n```bash\necho on\n```\n")
    ends = code_blocks.run_page(page, tmp_path / "folder", minutes=0.005)
    assert ends[f"failed {language}"] == 1 and ends["ran bash"] == 1
    assert code_blocks.STOPPED in capsys.readouterr().out
