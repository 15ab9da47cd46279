"""Public data sets in their official layout, one module each: record PUBLIC_SET, reader read_<module>."""
