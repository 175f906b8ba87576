"""How good answers are, and how sure: `realm evaluate`, `realm calibrate`."""
