"""What every room shares: errors with remedies, seeding, atomic files, provenance."""
