"""THE PAPER: hidden patches, objective, step, loop, probes."""
