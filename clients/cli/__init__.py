"""The ``paramem`` command."""
