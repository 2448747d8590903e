"""The Franka over a bin in MuJoCo: scenes, success tests and a scripted arm, behind the `Robot` protocol."""
