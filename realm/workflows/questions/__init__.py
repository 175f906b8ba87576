"""Questions made from the documents: `realm questions`."""
