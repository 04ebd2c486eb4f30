"""HTTP in, HTTP out: the Flask app before real servers, and a few times a real HTTP server."""
