"""Everything that touches a user's module: hooks, attention capture, shared forwards."""
