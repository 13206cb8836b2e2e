"""Games whose screens are images, one after another."""
