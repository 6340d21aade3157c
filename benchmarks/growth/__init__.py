"""Time and memory on a CPU against the size of input and model, with fitted exponents beside those of theory."""
