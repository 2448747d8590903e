"""Franka over ROS 1: the connection to franka_ros_interface, and a simulated driver with the same interface."""
