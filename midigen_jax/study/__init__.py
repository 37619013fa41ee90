"""What stands on top of training and sampling, and writes rows: benchmarks."""
