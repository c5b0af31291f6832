"""Datasets and what is made of them: where files come from, scaling, splitting."""
