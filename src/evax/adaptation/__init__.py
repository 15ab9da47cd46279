"""LABELS -> MODELS: classifier, segmenter and probe, and studies of many runs."""
