"""Which device does what: the strategies of queues.yaml, where their decisions are kept, who makes them."""
