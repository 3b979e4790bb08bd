"""The small model in torch: its sizes, a fast forward pass, and its checkpoint taken apart."""
