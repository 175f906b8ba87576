"""The training loop and what feeds it. Methods are known here only as a Protocol."""
