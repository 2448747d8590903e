"""Tests of `data_collection.reports`."""
