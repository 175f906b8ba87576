"""Question to answer, with the evidence it rests on."""
