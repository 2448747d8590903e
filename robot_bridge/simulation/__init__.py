"""Simulated Franka over a bin in MuJoCo: scenes, success tests, a scripted policy, and the `Robot` protocol."""
