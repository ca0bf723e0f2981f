"""Six workers on a two-star graph, each in a process of its own: one network from data that nobody shows another.

python examples/two_star_over_processes.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

folder = Path(mkdtemp()) / "run"
# The command does what `gracile.workers` offers: launch the processes, split the data, exchange, and draw what came out.
options = "--graph two-star --method average --processes 6 --data digits --split label --rounds 5"
subprocess.run([sys.executable, "-m", "gracile", "workers", *options.split(), "--out", str(folder)], check=True)
print(sorted(path.name for path in folder.iterdir()))
