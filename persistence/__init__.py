"""Everything that is kept: one module per noun, each function takes an open, tenant-bound connection first."""
