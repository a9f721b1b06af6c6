"""Authentication and access: keys, tickets, the application's own login, origins and hosts."""
