"""`.ci/upgrade.py`, on a report as pip writes it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / ".ci" / "upgrade.py"
SETUP = """
[options]
install_requires =
    torch>=2.13
    huggingface-hub>=1.31
[options.extras_require]
ray =
    ray[data]>=2.60
app =
    gradio>=6.10
test =
    gradio>=6.10
    PyStemmer>=2.2.0.3
"""
PINS = "# Known to work.\ngradio==6.31.0\nhuggingface-hub==2.4.0\nPyStemmer==3.1.0\ntorch==2.13.0\n"
REPORT = {
    "version": "1",
    "install": [
        {"metadata": {"name": name, "version": version}}
        for name, version in (
            ("torch", "2.13.0+cpu"), ("huggingface_hub", "3.0.1"), ("PyStemmer", "3.1.0"), ("gradio", "6.32.0"),
            ("numpy", "2.4.6"),
        )
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def upgrade():
    spec = importlib.util.spec_from_file_location("upgrade", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_declared_ranges_are_resolved_and_what_is_kept_stays(upgrade):
    lines = upgrade.wanted(PINS, SETUP, ["torch"])
    assert sorted(lines) == ["PyStemmer>=2.2.0.3", "gradio>=6.10", "huggingface-hub>=1.31", "torch==2.13.0"]
    assert "torch>=2.13" in upgrade.wanted(PINS, SETUP, [])
    # An upper bound in one group holds, too.
    bounded = SETUP.replace("test =\n    gradio>=6.10", "test =\n    gradio>=6.10,<7")
    assert {"gradio>=6.10", "gradio>=6.10,<7"} <= set(upgrade.wanted(PINS, bounded, []))


def test_names_that_are_unknown_are_refused(upgrade):
    with pytest.raises(SystemExit, match="requirements.txt does not name tokenisers"):
        upgrade.wanted(PINS, SETUP, ["tokenisers"])
    with pytest.raises(SystemExit, match="setup.cfg does not name plotly"):
        upgrade.wanted(PINS + "plotly==7.1.0\n", SETUP, [])


def test_versions_are_replaced_and_everything_else_stays(upgrade):
    new = upgrade.rewritten(PINS, upgrade.newest(REPORT))
    assert new == PINS.replace("6.31.0", "6.32.0").replace("2.4.0", "3.0.1")
    assert upgrade.rewritten(new, upgrade.newest(REPORT)) == new


def test_it_reads_the_project_s_own_files(upgrade):
    root = PATH.parents[1]
    pins, setup = (root / "requirements.txt").read_text(), (root / "setup.cfg").read_text()
    versions = dict(upgrade.PIN.findall(pins))
    assert len(upgrade.wanted(pins, setup, [])) == len(versions)
    assert upgrade.rewritten(pins, {upgrade.canonical(name): versions[name] for name in versions}) == pins


def test_it_says_how_to_call_it():
    done = subprocess.run([sys.executable, PATH, "--help"], capture_output=True, text=True, check=True)
    assert "python .ci/upgrade.py" in done.stdout and "--torch" in done.stdout
