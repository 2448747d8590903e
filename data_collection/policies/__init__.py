"""Random policy: object detection, motion primitives, waypoints."""
