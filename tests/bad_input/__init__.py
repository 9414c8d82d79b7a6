"""Tests of the mistakes that a user can make."""
