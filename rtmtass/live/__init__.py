"""Live sound: devices, the engine between them, what it counts and shows."""
