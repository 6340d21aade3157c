"""What a detector does well and where it fails."""
