"""The second opinion: NumPy float64 and closed forms, which share no arithmetic with the engine."""
