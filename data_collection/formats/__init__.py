"""Recordings of every kind as episodes, and ours as RoboNet files."""
