"""Ray Tune's interfaces over the search: thin, no decision is made here."""
