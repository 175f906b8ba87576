"""Learning from questions and answers: `realm finetune`."""
