"""Prediction over a network: the messages, the server, and the client for the robot's machine."""
