"""Run a plan: workers, records, scoring, locks."""
