"""Trials of tasks over many scenes, in parallel processes, with statistics and a report."""
