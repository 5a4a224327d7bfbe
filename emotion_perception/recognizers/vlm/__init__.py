"""A vision-language model that scores every label in one packed forward pass."""
