"""What the tests of whole processes share: servers, relays, workers, and the run that ends
them all."""
