-- Runs once, when the volume is made: the engine is the owner of its database, not a superuser.
\getenv password DATABASE_PASSWORD
CREATE ROLE energy LOGIN PASSWORD :'password';
ALTER DATABASE energy OWNER TO energy;
