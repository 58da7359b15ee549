"""What is owed: plans, rules, accruals, the ledger, payouts."""
