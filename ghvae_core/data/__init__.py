"""Episodes as the model sees them."""
