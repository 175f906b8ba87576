"""Learning from raw text: `realm pretrain`, what it compares itself with, and pages of examples."""
