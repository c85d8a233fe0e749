"""Tests of projects that use refs: an isolated back end for each test, and a clock that tests move by hand."""
