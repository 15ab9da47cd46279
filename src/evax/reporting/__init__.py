"""NUMBERS -> PAGES: figures and run pages."""
