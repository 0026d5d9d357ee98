"""Localization: is the map where the object is?"""
