"""One module a group of verbs. Heavy modules are imported inside, so that ``--help`` answers at once."""
