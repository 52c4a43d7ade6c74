"""The service around generators: HTTP, batching of rows, jobs, keys and a page."""
