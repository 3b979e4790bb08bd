"""One file a training stage, and what the stages share."""
