"""The engine directory: what its manifest says, what is checked, its golden values."""
