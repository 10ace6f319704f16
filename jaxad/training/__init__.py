"""What one detector learns: features kept, samples drawn, steps taken. Configuration-free."""
