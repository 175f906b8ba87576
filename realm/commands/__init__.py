"""The verbs of `realm`, one file for those of one kind: parse, call one function, show."""
