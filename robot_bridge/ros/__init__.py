"""The Franka over ROS 1: the bridge to franka_ros_interface, and a simulated driver that serves the same contract."""
