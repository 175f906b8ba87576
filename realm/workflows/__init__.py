"""The verbs: each takes a configuration, does the whole job, and reports through callbacks."""
