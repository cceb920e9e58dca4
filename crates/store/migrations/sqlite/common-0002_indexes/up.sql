-- A reader looks for these again and again while it has any dead letters.
CREATE INDEX event_dead_letters_requeued ON event_dead_letters (reader, source, requeued_at, position)
WHERE requeued_at IS NOT NULL;
