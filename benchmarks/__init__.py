"""Speed and memory, beside the peers and in one run: every figure is a ratio. `make bench` runs them all."""
