"""Which videos train, which choose and which are tested: sides, folds and the leak audit."""
