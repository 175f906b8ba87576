"""Retrievers for other frameworks: each finds what `Realm.search` finds, in that framework's own documents."""
