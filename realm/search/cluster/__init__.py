"""Embedding, refreshing and searching on several machines, by Ray (Moritz et al. 2018). Only `engine` imports it."""
