"""Who calls: keys, tickets, the application's own login, origins and hosts."""
