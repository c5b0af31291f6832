"""Deep linear networks: parameters, initial weights, losses, what is minimised, and the grid."""
