"""What maps cost on this machine: time as a ratio to one forward of the same model, and memory."""
