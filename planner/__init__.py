"""Planning: proposals, solvers, the control loop of a task, and reports."""
