"""The parity gate: texts, reference, comparison and verdict; verifying a bundle again."""
