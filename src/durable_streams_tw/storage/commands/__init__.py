"""Commands carried out in a transaction of any store."""
