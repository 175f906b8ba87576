"""Disk, memory and hours before anything is built: `realm estimate`."""
