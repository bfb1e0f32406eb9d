"""Store: rows in the database, which is the only truth; no other room imports Tortoise."""
