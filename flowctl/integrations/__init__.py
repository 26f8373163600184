"""Front ends for servers: each is a thin skin of `FlowController`."""
