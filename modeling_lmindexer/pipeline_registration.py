"""Registers the pipelines with transformers, as soon as its own are imported.

`import modeling_lmindexer` does not import them: with transformers 5.20 that takes 70 ms, and few programs use one.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder

THEIRS = "transformers.pipelines"


def register_pipelines() -> None:
    """Makes `pipeline("semantic-id", ...)` and `pipeline("semantic-retrieval", ...)` known."""
    from transformers import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from .pipelines import PIPELINES

    for task, kind in PIPELINES.items():
        PIPELINE_REGISTRY.register_pipeline(task, kind, pt_model=AutoModel, type="text")


def register_when_asked_for() -> None:
    """Registers the pipelines now if transformers' are imported, or else as soon as they are."""
    if THEIRS in sys.modules:
        register_pipelines()
    elif not any(isinstance(finder, RegisteringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegisteringFinder())


class RegisteringFinder(MetaPathFinder):
    """Finds transformers' pipelines where they are, and registers ours once they have been imported."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != THEIRS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module) -> None:
            execute(module)
            sys.meta_path.remove(self)
            register_pipelines()

        spec.loader.exec_module = execute_and_register
        return spec
