"""Whether a command of the guides would start: its script is there, and its parser takes exactly these options."""

import argparse
import configparser
import contextlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
# Other people's programs, whose options are not ours to check.
OTHERS = {
    ".", "cat", "cd", "cp", "curl", "docker", "echo", "export", "git", "head", "hf", "ls", "mkdir", "pre-commit",
    "sed", "source", "tail", "tensorboard", "trackio", "unzip", "wget", "zcat",
}  # fmt: skip


class Accepted(BaseException):
    """The parser took the options; no `except Exception` of a script keeps it from leaving."""


class Refused(Exception):
    """The command would fail before it begins."""


def check(command: list[str]) -> None:
    """Raises Refused where a command would not get as far as its work."""
    program, *words = command
    name = Path(program).name
    if re.fullmatch(r"python[\d.]*", name):
        _check_python(words)
    elif name == "accelerate":
        _check_accelerate(words)
    elif name == "torchrun":
        from torch.distributed.run import get_args_parser

        with _words_of_error(command):
            options = get_args_parser().parse_args(words)
        _check_script(options.training_script, options.training_script_args)
    elif name == "pip":
        _check_pip(words)
    elif name in ("pytest", "mkdocs", "jupyter"):
        missing = [word for word in words if word.endswith((".py", ".ipynb", "/")) and not (ROOT / word).exists()]
        if missing:
            raise Refused(f"{missing[0]} is not there")
    elif program.startswith(".ci/"):
        if not os.access(ROOT / program, os.X_OK):
            raise Refused(f"{program} is not there, or cannot be run")
    elif program not in OTHERS:
        raise Refused(f"{program} is no known program: if it is right, name it in {Path(__file__).name}")


def _check_python(words: list[str]) -> None:
    if words[:1] == ["-m"]:
        if importlib.util.find_spec(words[1]) is None:
            raise Refused(f"there is no module {words[1]}")
        if words[1] in ("pip", "pytest", "mkdocs"):
            check(words[1:])
    elif words[:1] == ["-c"]:
        compile(words[1], "-c", "exec")
    elif words:
        _check_script(words[0], words[1:])


def _check_accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    if words[:1] != ["launch"]:
        return
    with _words_of_error(words):
        options = launch_command_parser().parse_args(words[1:])
    if options.config_file and not (ROOT / options.config_file).is_file():
        raise Refused(f"{options.config_file} is not there")
    _check_script(options.training_script, options.training_script_args)


def _check_pip(words: list[str]) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for option, value in zip(words, words[1:], strict=False):
        if option == "-r" and not (ROOT / value).is_file():
            raise Refused(f"{value} is not there")
    for word in words:
        extras = re.search(r"(?:^\.|lmindexer)\[(.+)\]", word)
        unknown = set(extras[1].split(",")) - set(config["options.extras_require"]) if extras else set()
        if unknown:
            raise Refused(f"there is no extra {min(unknown)}")


def _check_script(script: str, words: list[str]) -> None:
    path = ROOT / script
    if not path.is_file():
        raise Refused(f"{script} is not there")
    with _as_called(path, words), _words_of_error([script, *words]):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            module.main()
        except Accepted:
            return
    raise Refused(f"{script} ended without parsing its options")


@contextlib.contextmanager
def _as_called(path: Path, words: list[str]) -> Iterator[None]:
    """The command line of a script, and parsers that leave with Accepted once they have taken it."""

    def parse_and_leave(self, *arguments, **options):
        namespace, rest = parse(self, *arguments, **options)
        if not rest:
            raise Accepted
        return namespace, rest

    parse = argparse.ArgumentParser.parse_known_args
    before = set(sys.modules)
    with (
        mock.patch.object(sys, "argv", [str(path), *words]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_and_leave),
        contextlib.chdir(ROOT),
    ):
        yield
    for name in set(sys.modules) - before:  # `data` of examples and of another folder are not the same
        if Path(getattr(sys.modules[name], "__file__", None) or "").is_relative_to(path.parent):
            del sys.modules[name]


@contextlib.contextmanager
def _words_of_error(command: list[str]) -> Iterator[None]:
    """What a parser or a script says when it leaves, as Refused."""
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            yield
    except (SystemExit, ValueError) as error:
        raise Refused(f"{' '.join(command)}: {words.getvalue().strip().splitlines()[-1:] or error}") from error
