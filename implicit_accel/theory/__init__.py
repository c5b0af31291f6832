"""What theory says about depth: predictions, and functions to check claims by."""
