"""Path of the module `walk_figure`, which the tests and the processes that they start import."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
