"""Registers the pipelines with transformers, as soon as its own are imported.

`import modeling_lmindexer` does not import them: with transformers 5.20 that takes 70 ms, and few programs use one.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder

THEIRS, OURS = "transformers.pipelines", f"{__package__}.pipelines"


def register_when_asked_for() -> None:
    """Imports our pipelines, which registers them, if transformers' are imported, or else as soon as they are."""
    if THEIRS in sys.modules:
        importlib.import_module(OURS)
    elif not any(isinstance(finder, RegisteringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegisteringFinder())


class RegisteringFinder(MetaPathFinder):
    """Finds transformers' pipelines where they are, and has ours imported after them."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != THEIRS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_go_on(module) -> None:
            execute(module)
            sys.meta_path.remove(self)
            importlib.import_module(OURS)  # nothing to do where they are what asked for theirs

        spec.loader.exec_module = execute_and_go_on
        return spec
