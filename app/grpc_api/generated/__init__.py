"""Written by `make proto` from proto/coral_reef.proto; a test holds the two together. Nothing here is edited."""
