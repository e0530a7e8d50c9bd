"""From footage to scores: predictions of videos, windows over hours of footage, events and alarms."""
