"""Greedy training, module by module, and its refinements."""
