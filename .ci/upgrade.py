"""Raises the pinned set, requirements.txt, to the newest versions that setup.cfg admits, and runs all tests with it.

    python .ci/upgrade.py

pip resolves the versions; nothing is installed into the environment this runs in. It prints what changes, writes
requirements.txt and tests it in a fresh environment (`tests/long/versions.py`); its exit status is that of the tests.
`git checkout requirements.txt` takes the change back. torch stays as it is without `--torch`, because a new one may
bring gigabytes of CUDA with it; `--keep NAME` holds back others, and `--dry-run` only prints.
"""

import argparse
import configparser
import difflib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([\w.-]+)==(\S+)$", re.MULTILINE)


def main() -> int:
    """Exit status: 0 where all is up to date, or raised and tested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="store_true", help="raise torch, too")
    parser.add_argument("--keep", nargs="+", default=[], metavar="NAME", help="packages that stay at their versions")
    parser.add_argument("--dry-run", action="store_true", help="write nothing, test nothing")
    options = parser.parse_args()
    file = ROOT / "requirements.txt"
    old = file.read_text(encoding="utf-8")
    kept = options.keep if options.torch else [*options.keep, "torch"]
    new = rewritten(old, newest(resolved(wanted(old, (ROOT / "setup.cfg").read_text(encoding="utf-8"), kept))))
    changes = difflib.unified_diff(old.splitlines(), new.splitlines(), file.name, file.name, n=0, lineterm="")
    print("\n".join(changes) or f"{file.name} holds the newest versions already", flush=True)
    if options.dry_run or new == old:
        return 0
    file.write_text(new, encoding="utf-8")
    return subprocess.run([sys.executable, ROOT / "tests" / "long" / "versions.py", file]).returncode


def canonical(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(pins: str, setup: str, kept: list[str]) -> list[str]:
    """What pip is to resolve: the declared range of every pinned package, the pin itself of what is kept.

    Args:
        pins: the text of requirements.txt.
        setup: the text of setup.cfg.
        kept: names.

    Raises:
        SystemExit: a name that is kept is not pinned, or a pinned package not declared.
    """
    config = configparser.ConfigParser()
    config.read_string(setup)
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    ranges: dict[str, set[str]] = {}
    for line in "\n".join(groups).split():
        ranges.setdefault(canonical(re.match(r"[\w.-]+", line)[0]), set()).add(line)
    versions = {canonical(name): f"{name}=={version}" for name, version in PIN.findall(pins)}
    for names, known, place in ((kept, versions, "requirements.txt"), (versions, ranges, "setup.cfg")):
        missing = [name for name in names if canonical(name) not in known]
        if missing:
            raise SystemExit(f"error: {place} does not name {', '.join(missing)}")
    held = {canonical(name) for name in kept}
    return [line for name, pin in versions.items() for line in ([pin] if name in held else sorted(ranges[name]))]


def resolved(requirements: list[str]) -> dict:
    """pip's report on installing those into an empty environment.

    Raises:
        SystemExit: they cannot be installed together; pip has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        options = ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", report]
        if subprocess.run([*pip, *options, *requirements]).returncode:
            raise SystemExit("error: no set of versions fits setup.cfg; pip's words above say which disagree")
        return json.loads(report.read_text(encoding="utf-8"))


def newest(report: dict) -> dict[str, str]:
    """Versions by name in one of pip's reports; a local part such as `+cpu` is of a machine, not of the set."""
    found = (package["metadata"] for package in report["install"])
    return {canonical(one["name"]): one["version"].partition("+")[0] for one in found}


def rewritten(pins: str, versions: dict[str, str]) -> str:
    """The text of requirements.txt with other versions; names, order and comments stay.

    Args:
        pins: the text.
        versions: by canonical name, one for each pinned package.
    """
    return PIN.sub(lambda pin: f"{pin[1]}=={versions[canonical(pin[1])]}", pins)


if __name__ == "__main__":
    sys.exit(main())
