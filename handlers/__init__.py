"""What each operation of the contract does: one module per noun, one function per operationId."""
