"""Durable records: tables, the database behind them, its migrations. Domain rules live with their domain."""
