"""Messages between processes and to clients: frozen, typed, versioned. No behaviour lives here."""
