"""Sound devices: finding, opening, watching and measuring them."""
