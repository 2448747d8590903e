"""Tests of the bridge to ROS, against a real master."""
