"""Is the map where the object is?"""
