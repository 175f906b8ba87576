"""Vectors in, hits out: exact search, BM25, embedding a snapshot, and the refresh of an index."""
