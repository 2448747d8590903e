"""Evaluation of predicted frames."""
