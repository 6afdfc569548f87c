"""Other people's programs that the tests run against: one directory each, built from its go.mod."""
