"""The Franka over libfranka's own protocol, without ROS, and a simulated arm that serves the same protocol."""
