"""File formats: readers for several datasets, and the writer of RoboNet files."""
