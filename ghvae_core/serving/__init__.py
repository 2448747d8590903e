"""The model behind a socket: the messages, the server that answers them, and the client of the robot's side."""
