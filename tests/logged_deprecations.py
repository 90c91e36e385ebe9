"""What transformers logs of its deprecations, which no filter of warnings sees."""

import logging
import traceback
from pathlib import Path


class Deprecations(logging.Handler):
    """Collects what transformers logs, instead of warning, of what it will remove."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record that speaks of a deprecation."""
        message = record.getMessage()
        within = {Path(frame.filename).name for frame in traceback.extract_stack()}
        if "candidate_generator.py" in within:  # of assisted generation, which itself calls generate in the old way
            return
        if "deprecated" in message or "will be removed in" in message:
            self.found.append(f"{record.name}: {message}")
