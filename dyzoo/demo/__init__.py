"""Pages in the browser on which a detector shows what it finds: with Python behind them, and without."""
