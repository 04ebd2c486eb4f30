"""Tables, and the only SQL of the product.

Functions in this room take a connection and never commit: the caller owns the transaction.
"""

from models.alarming import (
    Alarm,
    AlarmCondition,
    AlarmTransition,
    ChargingEpisode,
    EpisodesDirty,
    VehicleBaseline,
    VehicleDay,
)
from models.base import Base
from models.conservation import FlushReceipt, OperatorDecision, StreamTally
from models.derived import (
    DeadLetter,
    MeterDirtyHour,
    MeterEnergyHourly,
    MeterRegisterEvent,
    ReadingConflict,
    VehicleDirty,
    VehicleDirtyHour,
    VehicleEnergyHourly,
    VehiclePerformance,
    VehicleRegisterEvent,
)
from models.evidence import DayBegun, VehicleHourChanged
from models.registry import ApiKey, Fleet, Meter, MeterAssignment, Vehicle
from models.telemetry import MeterHistory, MeterLatest, VehicleHistory, VehicleLatest
from models.webhooks import WebhookDelivery, WebhookEndpoint, WebhookEvent

__all__ = [
    "Alarm",
    "AlarmCondition",
    "AlarmTransition",
    "ApiKey",
    "Base",
    "ChargingEpisode",
    "DayBegun",
    "DeadLetter",
    "EpisodesDirty",
    "Fleet",
    "FlushReceipt",
    "Meter",
    "MeterAssignment",
    "MeterDirtyHour",
    "MeterEnergyHourly",
    "MeterHistory",
    "MeterLatest",
    "MeterRegisterEvent",
    "OperatorDecision",
    "ReadingConflict",
    "StreamTally",
    "Vehicle",
    "VehicleBaseline",
    "VehicleDay",
    "VehicleDirty",
    "VehicleDirtyHour",
    "VehicleEnergyHourly",
    "VehicleHistory",
    "VehicleHourChanged",
    "VehicleLatest",
    "VehiclePerformance",
    "VehicleRegisterEvent",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookEvent",
]
