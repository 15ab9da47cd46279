"""The documentation site: `make docs` builds it into build/site."""

import sys
from pathlib import Path

from evax import __version__

sys.path.insert(0, str(Path(__file__).parent))  # for reference.py

project = "evax"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "reference"]

nb_execution_mode = "off"  # notebooks are kept with their outputs; tests run them
myst_heading_anchors = 4  # links to sections work as on GitHub
default_role = "literal"  # `code` in docstrings

html_theme = "furo"
html_title = "evax"
