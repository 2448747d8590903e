"""The `Robot` protocol, the safety limits, the camera model, and the robots that implement the protocol."""
