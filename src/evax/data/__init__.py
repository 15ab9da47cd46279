"""FILES -> ARRAYS: read images, keep them in stores, cut crops. Knows nothing of networks."""
