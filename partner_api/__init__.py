"""JSON for partners and advertisers: one function called, its result rendered."""
