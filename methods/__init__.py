"""The methods that come with the bench, registered through the same entry points as external ones."""
