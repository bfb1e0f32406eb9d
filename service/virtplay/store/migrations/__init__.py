"""Store: the migrations of the schema, in order."""
