"""Tests over ROS, with a real master."""
