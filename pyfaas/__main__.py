"""`python -m pyfaas`."""

from pyfaas.cli.main import main

if __name__ == "__main__":
    main()
