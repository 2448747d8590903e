"""How good imagined frames are, and by which measure."""
