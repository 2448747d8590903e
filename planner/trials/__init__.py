"""Many tasks in many scenes, each in a process of its own, and what they add up to."""
