"""The tests: unit/ needs nothing, integration/ asks for real servers (see conftest.py)."""
