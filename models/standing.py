"""What the alarms tell the summary: the vehicle's baseline and its open alarms, in its row.

So the performance of a vehicle stays one indexed row. The roll-up leaves these two columns alone.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

#: An alarm that only informs is no alarm of the vehicle's standing.
_SHOW = text("""
    UPDATE vehicle_performance_24h p SET (baseline, open_alarms) = (
        SELECT (SELECT jsonb_build_object(
                    'efficiency', b.efficiency_median, 'n', b.evaluations, 'status', b.status,
                    'z', b.z, 'etaC', b.eta_c, 'pAuxKw', b.p_aux_kw)
                FROM vehicle_baselines b WHERE b.vehicle_key = p.vehicle_key),
               (SELECT coalesce(jsonb_agg(a.rule ORDER BY a.rule), '[]') FROM alarms a
                WHERE a.vehicle_key = p.vehicle_key AND a.state <> 'resolved'
                  AND a.returned_at IS NULL AND a.severity <> 'info'))
    WHERE p.vehicle_key = :vehicle_key
""")


def show(conn: Connection, vehicle_key: int) -> None:
    """Bring both columns up to date, if the vehicle has a summary."""
    conn.execute(_SHOW, {"vehicle_key": vehicle_key})
