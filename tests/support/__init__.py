"""Servers, runs and records that the tests of several rooms use."""
