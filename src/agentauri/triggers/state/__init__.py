"""What triggers remember of the events before: averages, windows, cooldowns.

`config` reads it from a condition, `programs` says what an event feeds, `folding` folds it, `slots` keeps one key,
`store` is the SQL, `memory` takes a batch of events in and `undo` takes them back.
"""
