"""Datasets of recorded episodes for training and evaluation."""
