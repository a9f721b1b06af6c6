"""The configuration: from the file, the command line, the environment, or a program's arguments."""

from runstore.settings.file import load_settings as load_settings
from runstore.settings.server import URLS as URLS
from runstore.settings.server import ServerSettings as ServerSettings
from runstore.settings.server import override as override
from runstore.settings.settings import Settings as Settings
from runstore.settings.settings import use_folder as use_folder
