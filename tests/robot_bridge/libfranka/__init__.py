"""Tests of the Franka without ROS."""
