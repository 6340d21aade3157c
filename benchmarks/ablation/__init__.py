"""The paper's ablation: what each attention and each further block adds to a detector on one data set."""
