"""The ports between packages: each is small and states its guarantees."""

from runstore.core.ports.agent import AddedMessage as AddedMessage
from runstore.core.ports.agent import Agent as Agent
from runstore.core.ports.agent import AgentResult as AgentResult
from runstore.core.ports.agent import Asked as Asked
from runstore.core.ports.agent import RunContext as RunContext
from runstore.core.ports.agent import RunRecorder as RunRecorder
from runstore.core.ports.feed import Committed as Committed
from runstore.core.ports.feed import LiveFeed as LiveFeed
from runstore.core.ports.feed import Publisher as Publisher
from runstore.core.ports.feed import Subscription as Subscription
from runstore.core.ports.log import Conversations as Conversations
from runstore.core.ports.log import EventFilter as EventFilter
from runstore.core.ports.log import EventLog as EventLog
from runstore.core.ports.log import Head as Head
from runstore.core.ports.log import LogReader as LogReader
from runstore.core.ports.log import LogWriter as LogWriter
from runstore.core.ports.log import OpenRun as OpenRun
from runstore.core.ports.log import OpenRuns as OpenRuns
from runstore.core.ports.log import Reservation as Reservation
from runstore.core.ports.log import RunLog as RunLog
