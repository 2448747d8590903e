"""Tests of `data_collection.supervision`."""
