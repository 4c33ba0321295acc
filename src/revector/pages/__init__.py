"""Pages for people: self-contained HTML from plain data, without a database, a script or anything from elsewhere."""
