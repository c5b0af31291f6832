"""The claims, each with its experiment, and the laboratory that they are tested in."""
