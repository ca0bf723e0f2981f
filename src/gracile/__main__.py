"""``python -m gracile``."""

import sys

from gracile.cli import main

sys.exit(main())
