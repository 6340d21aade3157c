"""Scale and task attention: from statistics of the branches to the coefficients of the mix."""
