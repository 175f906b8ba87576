"""One process that serves questions and edits to other programs and to people."""
