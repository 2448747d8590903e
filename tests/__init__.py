"""Tests, with one folder per package."""
