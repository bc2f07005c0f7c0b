"""Commands on a teacher and images of one's own."""

COMMANDS = ()
