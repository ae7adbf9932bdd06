"""Reports: records as pictures and pages."""
