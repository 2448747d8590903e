"""Storage of a collection: episode folder, index, journal, verification."""
