"""What imagines: the GHVAE, its rival, and how they are kept."""
