"""Tests of `data_collection.policies`."""
