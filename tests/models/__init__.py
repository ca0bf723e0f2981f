"""Small networks of every wiring that removal must survive, and the largest one that it is timed on."""
