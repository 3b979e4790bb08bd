"""The training data: texts, voices, sounds, and their sequences of tokens."""
