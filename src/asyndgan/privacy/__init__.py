"""What may leave a site: every answer passes `Release`, and nothing else is sent."""

from asyndgan.privacy.release import Release, Released

__all__ = ["Release", "Released"]
