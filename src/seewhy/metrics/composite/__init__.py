"""Composite metrics: several properties in one number."""
