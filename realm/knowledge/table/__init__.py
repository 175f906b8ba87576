"""The Lance table under a knowledge base: its rows, its versions, what is read from it and written to it."""
