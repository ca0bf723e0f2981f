"""How many known architectures lose half of their channels exactly, with this library and with others; see `__main__`."""
