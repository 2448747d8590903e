"""Video prediction: the GHVAE, its greedy training, its evaluation, and the prediction server.

Axis letters in shape comments: B batch, N candidates, T time, K modules, C channels, H height, W width, A action,
Z latent. Modules are numbered 1..K as in Wu et al. 2021 (GHVAE); lists are 0-based.
"""
