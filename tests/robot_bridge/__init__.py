"""Tests of `robot_bridge`."""
