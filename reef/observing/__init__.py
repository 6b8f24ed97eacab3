"""What the operator sees of the reef: put together from workers' reports, places, the ledger and the last hour."""
