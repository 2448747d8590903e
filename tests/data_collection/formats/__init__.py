"""Tests of `data_collection.formats`."""
