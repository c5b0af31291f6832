"""The published claims that this project tests, a file each, and what several of them share."""
