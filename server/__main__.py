"""`python -m server` is `tallystick`."""

from server.cli import main

main()
