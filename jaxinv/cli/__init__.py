"""The command line. What does the work is loaded when there is work: help and refusals come at once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["stages"])
