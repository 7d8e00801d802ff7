"""Point-in-time copies of a home: taken while it is in use, verified before they replace it."""
