"""Franka over libfranka, without ROS: the connection through franky, and a simulated arm with the same protocol."""
