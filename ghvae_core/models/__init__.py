"""Video-prediction models: the GHVAE, the baselines SVG' and Hier-VRNN, and checkpoints."""
