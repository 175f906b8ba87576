"""The standing benchmark: one knowledge base of English Wikipedia passages, six question sets, two numbers each."""
