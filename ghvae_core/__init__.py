"""What predicts: the GHVAE, its greedy training, its measures, and the server that holds it.

Axis letters in shape comments: B batch, N candidates, T time, K modules, C channels, H height, W width, A action,
Z latent. Modules are numbered 1..K as in Wu et al. 2021 (GHVAE); lists are 0-based.
"""
