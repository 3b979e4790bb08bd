"""One file per graph of the model."""
