"""Measuring how far maps can be trusted."""
