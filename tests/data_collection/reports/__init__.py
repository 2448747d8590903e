"""Tests of `data_collection.pages`."""
