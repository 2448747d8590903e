"""Parts of a real Franka common to ROS and libfranka: state, command limits, trajectories, recovery and checks."""
