"""One paper, one file: a retriever, a reader and an objective held together."""
