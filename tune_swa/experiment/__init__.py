"""One experiment on disk: its folder, its journal, and the state that the journal folds into."""
