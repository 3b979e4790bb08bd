"""Codec tokens to samples (token2wav): the DiT, its solver and BigVGAN."""
