"""Data collection: the random policy, the RoboNet episode format and the autonomous collector."""
