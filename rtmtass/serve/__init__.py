"""`rtmtass serve`: many live streams over WebSocket, stepped together on a fixed clock."""
