"""What is known: text that people edit. Outside formats become documents, documents become passages."""
