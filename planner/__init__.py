"""What decides: proposals, solvers, the closed loop of a task, and the report of what was planned."""
