"""A simulated arm with the libfranka protocol."""
