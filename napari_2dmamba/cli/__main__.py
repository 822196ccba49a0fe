"""``python -m napari_2dmamba.cli``."""

import sys

from napari_2dmamba.cli import main

sys.exit(main())
