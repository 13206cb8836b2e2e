"""Folder of what these tests share, on the path of their imports."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
