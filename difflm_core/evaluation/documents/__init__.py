"""Measures of corpora of documents (JSON or code): data only, no model of ours.

Documents are compared twice: as texts, and as tables of features to which all that is known of
tables applies.
"""
