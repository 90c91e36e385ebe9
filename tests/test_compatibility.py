"""The declared ranges, the pinned set and the lowest versions agree."""

import configparser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def declared() -> dict[str, list[Requirement]]:
    """Requirements of setup.cfg by group, those that every user gets under `base`."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    groups = {"base": config["options"]["install_requires"], **config["options.extras_require"]}
    return {name: [Requirement(line) for line in lines.split()] for name, lines in groups.items()}


def pinned(file: str) -> dict[str, str]:
    """Versions by name; a file of pins holds nothing else."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(pin.specifier and str(pin.specifier).startswith("==") for pin in pins)
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins)
    return versions


def lowest() -> dict[str, str]:
    """The lowest version by name: every requirement declares one, and the same in all groups."""
    found = {}
    for requirement in (one for group in declared().values() for one in group):
        operator, version = str(requirement.specifier)[:2], str(requirement.specifier)[2:]
        assert operator == ">=" and found.setdefault(canonicalize_name(requirement.name), version) == version, (
            requirement
        )
    return found


def needed_by_tests() -> set[str]:
    """What the tests need: everything but what takes a GPU, a machine of its own or another's programs."""
    groups = declared()
    return {canonicalize_name(one.name) for group in ("base", "test") for one in groups[group]}


def test_the_lowest_versions_are_those_that_are_declared():
    assert pinned("constraints-lowest.txt") == {name: lowest()[name] for name in needed_by_tests()}


def test_the_pinned_versions_are_in_the_declared_ranges():
    pins, groups = pinned("requirements.txt"), declared()
    assert set(pins) == needed_by_tests()
    for requirement in (one for group in groups.values() for one in group):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), requirement


def test_the_tests_need_every_extra_that_has_no_environment_of_its_own():
    groups = declared()
    for extra in ("adapters", "app", "docs", "metrics", "rivals", "tracking"):
        assert {one.name for one in groups[extra]} <= {one.name for one in groups["test"] + groups["base"]}, extra
