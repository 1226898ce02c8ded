"""The metadata of a volume as one JSON document, in the form of the official client."""
