"""Public data sets that evax fetches and a source of `own` reads, one module each: record PUBLIC_SET."""
