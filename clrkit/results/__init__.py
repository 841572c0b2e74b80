"""From run records to statistics, claims, tables, figures and the report; without torch."""
