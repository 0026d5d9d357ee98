"""Is the model right, blind, or confused?"""
