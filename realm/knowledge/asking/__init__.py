"""Questions made of passages: a parsed sentence, an answer in it, and rules that ask for it."""
