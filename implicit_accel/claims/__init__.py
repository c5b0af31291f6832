"""Claims: effects with intervals, criteria, and what is written about them."""
