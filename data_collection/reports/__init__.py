"""Reports: images, charts and HTML pages."""
