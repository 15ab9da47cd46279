"""Layouts of a user's own folders, one module each: reader read_<module>."""
