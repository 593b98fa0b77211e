"""What becomes of everybody when `serve` is asked for more than it can do, and of one agency beside what others do."""
