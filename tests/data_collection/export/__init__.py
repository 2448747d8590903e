"""Tests of `data_collection.export`."""
