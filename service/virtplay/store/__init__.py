"""Store: the database is the only truth; nothing else imports Tortoise."""
