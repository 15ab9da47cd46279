"""FILES -> NETWORKS: published layouts, key maps, safe loading."""
