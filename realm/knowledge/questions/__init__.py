"""Files of questions, and of what was answered to them."""
