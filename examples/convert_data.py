"""Converts a public download to the files that the other scripts read, and says whether it is the one you think.

    python examples/convert_data.py amazon_2014 --input reviews=reviews_Beauty_5.json.gz meta=meta_Beauty.json.gz \\
        --output_dir outputs/beauty --paper Amazon-Beauty

Leaves items.jsonl.gz and sequences.txt.gz, or a BEIR folder, and SOURCE.json with the sha256 of every file that was
read or written. With somebody's SOURCE.json as --expect, a file that differs from theirs is an error.
"""

import json
import re
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data import CorpusError
from data.sources import SOURCES, Source
from data.sources.forms import fingerprint
from data.sources.paper import PAPER
from transformers import HfArgumentParser

from trainers.report import format_table

MANIFEST = "SOURCE.json"


@dataclass
class ConvertArguments:
    """Which files are read, and where the result goes."""

    input: list[str] = field(metadata={"help": "Files as role=path; a wrong role is answered with those there are."})
    output_dir: str = field(metadata={"help": "A folder that is not there yet; it appears when all is done."})
    expect: list[str] = field(
        default_factory=list,
        metadata={"help": "A SOURCE.json to agree with, or the sha256 of every input in the order of --input."},
    )
    paper: str | None = field(
        default=None,
        metadata={"help": f"A row of the paper's Tables 6 and 7 to print the counts beside: {', '.join(PAPER)}."},
    )

    def __post_init__(self) -> None:
        if self.paper is not None and self.paper not in PAPER:
            raise ValueError(f"paper={self.paper!r}: expected one of {', '.join(PAPER)}.")


def named_inputs(source: Source, given: list[str]) -> dict[str, list[Path]]:
    """Files by role, an empty list for those that are not given."""
    found: dict[str, list[Path]] = {role: [] for role in source.roles}
    for text in given:
        role, equals, path = text.partition("=")
        if not equals or role not in found:
            optional = f"; optional: {', '.join(source.optional)}" if source.optional else ""
            raise ValueError(f"--input {text}: expected role=path with one of {', '.join(source.needed)}{optional}.")
        if not Path(path).expanduser().is_file():
            raise FileNotFoundError(f"--input {text}: there is no file {Path(path).absolute()}.")
        found[role].append(Path(path).expanduser())
    for role, paths in found.items():
        if (role in source.needed and not paths) or (len(paths) > 1 and role not in source.many):
            raise ValueError(f"--input has {len(paths)} files as {role}; expected one.")
    return found


def read_expected(expect: list[str], given: list[str], source: Source) -> dict:
    """What a SOURCE.json says, or what follows from sha256 sums alone, which are in the order of --input."""
    if all(re.fullmatch("[0-9a-f]{64}", text) for text in expect):
        if expect and len(expect) != len(given):
            raise ValueError(f"--expect has {len(expect)} sums and --input {len(given)} files; expected as many.")
        by_role = sorted(
            zip(given, expect, strict=False), key=lambda pair: source.roles.index(pair[0].partition("=")[0])
        )
        return {"inputs": [{"sha256": text} for _, text in by_role]} if expect else {}
    if len(expect) > 1:
        raise ValueError("--expect is one SOURCE.json, or a sha256 of 64 small hexadecimal digits per input.")
    try:
        found = json.loads(Path(expect[0]).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{expect[0]} is not JSON ({error}); expected a SOURCE.json.") from error
    files = [*found.get("inputs", []), *found.get("outputs", [])] if isinstance(found, dict) else [None]
    if not all(isinstance(file, dict) and "sha256" in file for file in files):
        raise ValueError(f"{expect[0]} does not say which files it is about; expected a SOURCE.json.")
    return found


def check(found: dict, expected: dict) -> None:
    """Raises CorpusError where a manifest says otherwise than the expected one, as far as that says anything."""
    for name in ("source", "settings"):
        if name in found and found[name] != expected.get(name, found[name]):
            raise CorpusError(f"{name} is {found[name]}; expected {expected[name]}.")
    for kind in ("inputs", "outputs"):
        if kind not in found or kind not in expected:
            continue
        if len(found[kind]) != len(expected[kind]):
            raise CorpusError(f"There are {len(found[kind])} {kind}; expected {len(expected[kind])}.")
        for own, other in zip(found[kind], expected[kind], strict=True):
            if own["sha256"] != other["sha256"]:
                size = f" and {other['bytes']} bytes" if "bytes" in other else ""
                raise CorpusError(
                    f"{own['file']} differs: it has sha256 {own['sha256']} and {own['bytes']} bytes; expected "
                    f"{other['sha256']}{size}."
                )


def convert(name: str, arguments: ConvertArguments, settings) -> dict:
    """Reads, checks, writes, and returns what SOURCE.json says."""
    source, target = SOURCES[name], Path(arguments.output_dir).expanduser().absolute()
    if target.exists():
        raise ValueError(f"output_dir={arguments.output_dir} is there already: remove it, or name another.")
    inputs = named_inputs(source, arguments.input)
    files = [(role, path) for role, paths in inputs.items() for path in paths]
    expected = read_expected(arguments.expect, arguments.input, source)
    found = {"source": name, "settings": asdict(settings)}
    found["inputs"] = [{"role": role, "file": path.name} | fingerprint(path) for role, path in files]
    check(found, expected)
    converted = source.convert(inputs, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        counts = converted.write(folder)
        written = sorted(path for path in folder.rglob("*") if path.is_file())
        found["outputs"] = [
            {"file": path.relative_to(folder).as_posix()} | fingerprint(path, unpack=True) for path in written
        ]
        check(found, expected)
        found["counts"] = counts
        (folder / MANIFEST).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        folder.rename(target)
    return found


def count_table(counts: dict[str, int], paper: dict[str, int]) -> str:
    """Counts beside the paper's."""
    rows = [[name, count, *_beside(count, paper.get(name))] for name, count in counts.items()]
    return format_table(["", "count", *(["paper", ""] if paper else [])], [row if paper else row[:2] for row in rows])


def _beside(count: int, theirs: int | None) -> tuple[int | None, str]:
    return theirs, "differs" if theirs not in (None, count) else ""


def main() -> None:
    """Parses the arguments and runs."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(f"{__doc__}\nDownloads: {', '.join(SOURCES)}. Name one before --help for its settings.")
        return
    try:
        if name not in SOURCES:
            raise ValueError(f"{name or 'no source'}: expected one of {', '.join(SOURCES)} as the first argument.")
        parser = HfArgumentParser((ConvertArguments, SOURCES[name].settings), prog=f"convert_data.py {name}")
        arguments, settings = parser.parse_args_into_dataclasses(sys.argv[2:])
        found = convert(name, arguments, settings)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(count_table(found["counts"], PAPER.get(arguments.paper, {})))
    print(f"\n{arguments.output_dir}: {', '.join(row['file'] for row in found['outputs'])}, {MANIFEST}")


if __name__ == "__main__":
    main()
