"""The SQL functions: `call → descriptor → row → prompt → answer → checked value or typed error → column`."""
