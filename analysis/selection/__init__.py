"""Selection of one point: limits, the choice under them, and the answers a report keeps."""
