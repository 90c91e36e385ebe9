"""Settings of all tests."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models are faster on one thread, and the processes that tests start do not fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Test helpers of one folder import each other by name; importlib mode does not put them on the path.
sys.path.insert(0, str(Path(__file__).parent))
