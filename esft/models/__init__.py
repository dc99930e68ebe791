"""Models: found, checked, loaded, saved."""
