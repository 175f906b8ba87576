"""Networks: text in, numbers out; Hugging Face modules inside."""
