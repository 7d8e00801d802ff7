"""Training a bundle: text reader, then memory reader, compressor and selector together."""
