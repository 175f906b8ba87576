"""Judging: answers, retrieval, and the page that shows them."""
