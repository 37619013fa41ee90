"""What programs cost on chips that are not there: compiled by the chips' own compilers, and read."""
