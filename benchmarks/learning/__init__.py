"""Does it learn, and from what? Long runs, ablations, lines to compare with, tables and figures. See README.md."""
