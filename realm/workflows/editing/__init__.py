"""Whether answers follow the documents: `realm edit-test`."""
