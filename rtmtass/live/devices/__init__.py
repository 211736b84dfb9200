"""Sound devices: listing, opening, reconnecting and measuring them."""
