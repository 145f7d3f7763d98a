"""Looking after stores: check, salvage, backup. Loaded only by those who ask for one of them."""
