"""Ablations: a grid of gin bindings becomes runs, a table and a figure."""
