"""The graphs that turn codec tokens into sound: the DiT, its time tables, BigVGAN, and the voices."""
