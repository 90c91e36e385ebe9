"""Runs all tests in a fresh environment that holds exactly the versions of a file of pins.

`python tests/long/versions.py constraints-lowest.txt` tests the lowest versions that setup.cfg declares, and
`python tests/long/versions.py requirements.txt` the set that is known to work. What follows `--` goes to pytest. It
prints the versions found, what pytest prints, and the result, which is also the exit status.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTEST = ["-q", "-n", "2", "--dist", "loadfile"]


def main() -> int:
    """Exit status: 0 where all tests passed."""
    own, pytest_arguments = sys.argv[1:], PYTEST
    if "--" in own:
        own, pytest_arguments = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pins", nargs="?", type=Path, default=ROOT / "constraints-lowest.txt", help="name==version lines"
    )
    pins = parser.parse_args(own).pins.resolve()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        python = installed(Path(folder) / "venv", pins)
        print_versions(python, pins)
        status = subprocess.run([python, "-m", "pytest", *pytest_arguments], cwd=ROOT).returncode
    minutes = (time.perf_counter() - started) / 60
    print(f"{pins.name}: {'passed' if status == 0 else f'FAILED, pytest ended with {status}'}, {minutes:.0f} minutes")
    return status


def installed(folder: Path, pins: Path) -> Path:
    """The Python of a new environment with this package, its tests' needs and those versions.

    Raises:
        subprocess.CalledProcessError: they cannot be installed together; pip has said why.
    """
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    # A newer pip than Python's own, which reports conflicts in words; wheels alone, as users get them.
    subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip"], check=True)
    wanted = ["--only-binary", ":all:", "--constraint", pins, "--editable", f"{ROOT}[test]"]
    subprocess.run([*pip, "install", "--quiet", *wanted], check=True)
    subprocess.run([*pip, "check"], check=True)
    return python


def print_versions(python: Path, pins: Path) -> None:
    """Prints what is installed of the pinned packages."""
    names = [line.partition("==")[0] for line in pins.read_text(encoding="utf-8").splitlines() if "==" in line]
    code = (
        f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in {names}}}))"
    )
    found = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {len(found)} packages:")
    print(", ".join(f"{name} {version}" for name, version in found.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
