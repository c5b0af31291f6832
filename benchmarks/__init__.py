"""The same work done by this project and by what a user would otherwise run, side by side."""
