"""All that knows files, their names and their faults: folders become cases."""
