"""A simulated arm that serves the libfranka protocol."""
