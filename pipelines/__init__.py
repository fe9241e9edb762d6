"""A job's data flow: source → plan → infer → ledger → sink → record."""
