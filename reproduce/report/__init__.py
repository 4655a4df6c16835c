"""What the records say: tables as DataFrames, figures, and the claims' rules. No sentences."""
