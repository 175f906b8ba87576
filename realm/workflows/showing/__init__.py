"""What is in a folder: `realm show`."""
