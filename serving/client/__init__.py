"""The row client: rows of a table → requests of many rows → answers, in the order of the rows."""
