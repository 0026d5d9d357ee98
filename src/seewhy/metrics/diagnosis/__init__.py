"""Diagnosis: is the model right, blind, or confused?"""
