"""Getting a message to the carrier and learning what became of it."""
