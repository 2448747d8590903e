"""What the arm tries by itself, and what of it is worth keeping."""
