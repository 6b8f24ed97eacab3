"""Conversations: sessions, their messages, how a turn is accepted and how a reply is written."""
