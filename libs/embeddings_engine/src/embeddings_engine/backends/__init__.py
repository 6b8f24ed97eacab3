"""What computes vectors: one module a runtime or service, all behind `base.Backend`, and the choice between them."""
