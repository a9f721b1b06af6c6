"""Supervising the runs of this process: which ones it has, starts, stops and hands over."""
