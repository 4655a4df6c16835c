"""The same values as the formulas, faster."""
