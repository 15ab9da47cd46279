"""Several releases as one source, one module each: record PUBLIC_SET, reader read_<module>."""
