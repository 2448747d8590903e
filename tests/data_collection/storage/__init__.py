"""Tests of `data_collection.storage`."""
