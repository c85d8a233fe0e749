"""Models of the tests: rows that a fence protects."""
