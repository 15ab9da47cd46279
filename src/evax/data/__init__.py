"""FILES -> ARRAYS: read films, keep them in stores, cut crops. Knows nothing of networks."""
