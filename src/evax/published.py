"""Numbers of the paper that several rooms use."""

MERGED_520K_MEAN, MERGED_520K_STD = 0.49185243, 0.28509309  # of films in [0, 1]; facts 2.1
