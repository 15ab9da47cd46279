"""THE STRAIGHT LINES: one file per command, its Config beside the function of the same name."""
