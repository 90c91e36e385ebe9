"""The app's modules lie in one flat folder, as a Space has them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "app"))
