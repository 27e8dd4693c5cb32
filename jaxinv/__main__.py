"""`python -m jaxinv` is the command `jaxinv`."""

from jaxinv.cli.cli import main

main()
