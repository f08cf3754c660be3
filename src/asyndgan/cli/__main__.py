"""`python -m asyndgan.cli`, as which the coordinator's page starts a command."""

from asyndgan.cli import main

if __name__ == "__main__":
    main()
