"""The paper's comparison, run again on data of one's own."""
