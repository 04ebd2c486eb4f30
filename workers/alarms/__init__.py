"""Alarms: which vehicle's charging got worse, judged on fresh evidence only.

The rules are pure: finished charging episodes and finished days in, alarm spans out
(`engine.judge`). They know no database and no clock, so the watcher, a what-if replay and the
benchmark run the very same code.
"""
