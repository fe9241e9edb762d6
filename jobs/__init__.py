"""Jobs: a YAML file → a checked spec → one run of its pipeline → tables, a record, an exit code."""
