"""What moves: the `Robot` protocol, the safety limits, the camera, and the arms behind them."""
