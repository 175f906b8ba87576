"""What every benchmark shares: timing in turn, limits, memory, the record, the table."""
