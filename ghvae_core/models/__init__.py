"""Video-prediction models: the GHVAE, the baseline SVG', and checkpoints."""
