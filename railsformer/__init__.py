"""Fine-tune TimeSformer to recognise dangerous situations in railway yards, and say how far it can be trusted."""
