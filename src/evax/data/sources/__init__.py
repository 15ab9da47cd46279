"""One reader per kind of release: a folder on disk -> Manifest."""
