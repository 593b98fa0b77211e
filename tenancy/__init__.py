"""Who is asking, for which agency, and the one door to the database that binds the answer."""
