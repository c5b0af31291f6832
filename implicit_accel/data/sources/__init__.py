"""Regression datasets: every module here is one, and `registry` finds it."""
