"""What holds for all tests."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # on a busy machine any example may take long
settings.load_profile("no deadline")
