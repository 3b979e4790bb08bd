"""The small model in torch: its architecture, a fast forward pass, and its checkpoint."""
