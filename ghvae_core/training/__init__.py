"""Greedy training, one module after another, and its refinements."""
