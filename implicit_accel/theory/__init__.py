"""Theory of depth: predictions of a sweep, and functions with which claims are checked."""
