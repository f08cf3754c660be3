"""The wire format: messages with a schema, arrays with a coding, and size limits on both."""
