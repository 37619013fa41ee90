"""The network: pure functions and thin Linen modules; it knows no files and no optimizer."""
