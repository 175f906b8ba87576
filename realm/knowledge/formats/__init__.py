"""Outside formats to documents: files, records, and what is malformed in them."""
