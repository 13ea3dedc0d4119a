"""Validation: simulated numbers beside reference numbers, case by case."""
