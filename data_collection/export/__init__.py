"""Recorded episodes in the formats that other projects read: LeRobotDataset v3.0 and WebDataset."""
