"""How simple is the map?"""
