"""What people look at: pictures, charts and pages."""
