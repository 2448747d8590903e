"""Unattended collection: worker processes and their supervision."""
