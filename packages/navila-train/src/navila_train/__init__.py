"""Train vision-language navigation models with the Hugging Face Trainer."""
