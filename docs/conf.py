"""Sphinx configuration; `make docs` builds the site into build/site."""

import sys
from pathlib import Path

from evax import __version__

sys.path.insert(0, str(Path(__file__).parent))  # for reference.py

project = "evax"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "reference"]
myst_heading_anchors = 4  # links to sections, as on GitHub
nb_execution_mode = "off"  # notebooks hold their outputs
default_role = "literal"  # `code` in docstrings
smartquotes = False  # keeps --option as it is
html_theme = "furo"
html_title = "evax"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
