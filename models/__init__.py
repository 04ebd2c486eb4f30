"""Tables, and the only SQL of the product.

Functions in this room take a connection and never commit: the caller owns the transaction.
"""

from models.base import Base
from models.conservation import FlushReceipt, OperatorDecision, StreamTally
from models.derived import (
    DeadLetter,
    MeterDirtyHour,
    MeterEnergyHourly,
    MeterRegisterEvent,
    ReadingConflict,
    VehicleDirtyHour,
    VehicleEnergyHourly,
    VehiclePerformance,
    VehicleRegisterEvent,
)
from models.registry import ApiKey, Fleet, Meter, MeterAssignment, Vehicle
from models.telemetry import MeterHistory, MeterLatest, VehicleHistory, VehicleLatest
from models.webhooks import WebhookDelivery, WebhookEndpoint, WebhookEvent

__all__ = [
    "ApiKey",
    "Base",
    "DeadLetter",
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
    "VehicleDirtyHour",
    "VehicleEnergyHourly",
    "VehicleHistory",
    "VehicleLatest",
    "VehiclePerformance",
    "VehicleRegisterEvent",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookEvent",
]
