"""What can be seen inside a trained model: its architecture, predictions, attention, tables."""
