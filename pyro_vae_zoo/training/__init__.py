"""One training for every pair: options, steps, loop, checkpoints."""
