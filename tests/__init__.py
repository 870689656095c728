"""The tests, mirroring the library's folders; a package so that they can share `tests.golden_numbers`."""
