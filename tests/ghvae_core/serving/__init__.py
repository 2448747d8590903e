"""Tests of the messages, the server and its client."""
