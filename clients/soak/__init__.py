"""The service under random SIGKILLs: traffic, a ledger of what was acknowledged, an audit."""
