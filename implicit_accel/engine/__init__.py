"""Training: runs of any model over a whole grid, in one compiled program."""
