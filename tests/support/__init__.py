"""What the tests share: cases, small checkpoints, pictures, servers to start, comparisons."""
