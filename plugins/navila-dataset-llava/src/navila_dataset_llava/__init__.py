"""Image and text conversations in LLaVA's JSON format for navila."""
