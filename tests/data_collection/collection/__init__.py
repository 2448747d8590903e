"""Tests of `data_collection.collection`."""
