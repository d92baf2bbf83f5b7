"""Parts of one's own for molino: docs/your-own-code.md tells how they were made."""
