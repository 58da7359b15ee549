"""Who takes part and on what terms: parties, programs, memberships, users, access."""
