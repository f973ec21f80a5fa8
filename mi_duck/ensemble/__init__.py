"""From trained instances to one model and its predictions."""
