"""How the system is set: the YAML files, the strict loader that reads them, and the frame of every command."""
