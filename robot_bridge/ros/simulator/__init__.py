"""A simulated franka_ros_interface driver: the same topics, services and actions on a simulated arm."""
