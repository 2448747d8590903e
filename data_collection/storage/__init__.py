"""A folder of episodes: what it holds, what happened to it, and whether it is whole."""
