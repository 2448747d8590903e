"""Tests of ghvae_core."""
