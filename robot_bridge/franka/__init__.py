"""The Franka whichever way it is driven: state, limits, trajectories, recovery and checks, without ROS or libfranka."""
