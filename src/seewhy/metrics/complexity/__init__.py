"""Complexity: how simple is the map?"""
