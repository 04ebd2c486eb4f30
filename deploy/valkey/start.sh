#!/bin/sh
# Starts Valkey with /etc/valkey/$1.conf. The password comes by standard input: a server's arguments
# are in the process list of the host, for every user to read.
# The engine needs no command that wipes, dumps or reconfigures a server, and never trims a stream:
# an entry leaves it only after its readings are in PostgreSQL. /readyz asks for INFO and CONFIG GET.
set -eu
exec valkey-server "/etc/valkey/$1.conf" - <<END
user default on >${VALKEYCLI_AUTH:?} ~* &* +@all -@dangerous +info +config|get -xtrim -xgroup|destroy
END
