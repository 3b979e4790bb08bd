"""Who says what, in which order: sessions, prompts, replies and their speech."""
