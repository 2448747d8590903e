"""Tests of `data_collection.archive`."""
