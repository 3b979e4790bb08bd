"""What a Hugging Face checkpoint holds: its files, configuration, tensors and texts."""
