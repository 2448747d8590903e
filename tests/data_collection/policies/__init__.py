"""Tests of `data_collection.play`."""
