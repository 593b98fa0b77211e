"""What a request meets between the socket and its handler, and its answer on the way back."""
