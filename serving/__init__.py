"""Serving: `POST /v1/rows` → keys → journal → engine → answers in order of completion."""
