"""report.html: what quantising did to the vectors."""
