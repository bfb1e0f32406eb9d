"""Schemas: the JSON of requests and answers, a file a resource."""
