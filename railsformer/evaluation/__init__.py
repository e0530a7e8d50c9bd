"""From logits to figures one can trust."""
