"""Train the small detector and the small vision-language model of the toy world."""
