"""From a finished run to what people read."""
