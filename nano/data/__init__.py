"""What it is trained on: texts, voices, sounds, and how they become tokens."""
