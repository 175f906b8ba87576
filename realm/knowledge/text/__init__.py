"""Text to sentences, passages, parses and salient spans."""
