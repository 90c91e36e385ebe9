"""The beginning of a script in which our packages cannot be imported, as for a user who has not installed them."""

HIDDEN_PACKAGE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_lmindexer", "trainers", "metrics"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""
