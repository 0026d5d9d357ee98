"""Does the model use what the map points at?"""
