"""Tests of `data_collection`."""
