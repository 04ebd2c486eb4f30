"""Sample fleets and real registers, sent through the product's public HTTP API."""
