"""The gRPC API: proto/coral_reef.proto, served by the gateway on a port of its own. Off unless REEF_GRPC_PORT is set.

It has no rules of its own: requests become the same structs as REST bodies and WebSocket frames, and go to the same
functions. The web process imports nothing from here.
"""
