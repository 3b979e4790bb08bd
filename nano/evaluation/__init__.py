"""How well it does, on what it was never trained on."""
