"""The tests, a folder for each package that they test."""
