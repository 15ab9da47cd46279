"""LEARNING: masks, objective, optimizer, the loops, checkpoints, probes."""
