"""Systems side by side: `realm compare`, `realm ablate`."""
