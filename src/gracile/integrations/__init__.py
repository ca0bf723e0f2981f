"""Callbacks for other people's trainers; each module needs its framework, and none is imported here."""
